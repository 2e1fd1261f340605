"""The papers' own layers: hand-computed tables, and the seams that they leave."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.published import PatchAxis, Statistics, _thumbnail, render_as_published
from tests.stain.normalise.networks import generator
from wsigen.errors import InvalidValueError
from wsigen.stain.normalise import NormLayers

P = 16


def image(rows: int = 2, cols: int = 3, patch: int = P) -> Tensor:
    """Patches of different colour and contrast."""
    random = torch.Generator().manual_seed(0)
    noise = torch.rand(3, rows * patch, cols * patch, generator=random) - 0.5
    y = torch.linspace(0.2, 1, rows * patch)[:, None]
    x = torch.linspace(-0.4, 0.4, cols * patch)
    return noise * y + x


def one_norm(eps: float = 1e-5) -> NormLayers:
    """A network that is its norm layer."""
    return NormLayers(nn.Sequential(nn.InstanceNorm2d(3, eps=eps)))


def patches(picture: Tensor, patch: int = P) -> np.ndarray:
    """(rows, cols, 3, patch, patch), float64."""
    return picture.double().unfold(1, patch, patch).unfold(2, patch, patch).permute(1, 2, 0, 3, 4).numpy()


def moments(cut: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and the root of the unbiased variance, Σ(x - mean)²/(n - 1), of each patch and channel."""
    mean = cut.mean((-1, -2))
    squares = np.square(cut - mean[..., None, None]).sum((-1, -2))
    return mean, np.sqrt(squares / (cut.shape[-1] * cut.shape[-2] - 1))


def test_weights_of_the_paper_for_four_pixels():
    """v_k = k·4/3, k = 0 … 3, of 4: 0, 1/3, 2/3, 1. Of two pairs' eight pixels, the four in the centre."""
    found = PatchAxis((-2.0, 2.0, 6.0)).linear(torch.arange(4).double())
    assert found.before.tolist() == [0, 0, 1, 1]
    assert found.weight.tolist() == pytest.approx([2 / 3, 1, 0, 1 / 3])


def test_a_hand_computed_row_of_the_papers_layer():
    """Means 0, 3, 6 of three patches: of the middle one's field, four pixels read 2, 3, 3, 4."""
    picture = torch.cat([torch.full((3, 4, 4), mean) for mean in (0.0, 3.0, 6.0)], dim=2)
    spread = torch.tensor([1.0, -1.0]).repeat(2)[:, None].expand(4, 12)  # of variance 1
    out = render_as_published(
        one_norm(), picture + spread, "dn-paper", patch=4, margin=0, statistics=Statistics(0.0, 0)
    )
    middle = out[0, 0, 4:8]  # of values 3 + 1
    assert middle.tolist() == pytest.approx([2, 1, 1, 0], abs=1e-5)
    first = out[0, 0, :4]  # the table's edge is replicated: means 0, 0, 0, 1
    assert first.tolist() == pytest.approx([1, 1, 1, 0], abs=1e-5)


def test_a_hand_computed_row_of_the_codes_layer():
    """Pixel i of 4 lies at (i + ½)/4 - ½ = -3/8, -1/8, 1/8, 3/8 pitches."""
    picture = torch.cat([torch.full((3, 4, 4), mean) for mean in (0.0, 8.0, 16.0)], dim=2)
    spread = torch.tensor([1.0, -1.0]).repeat(2)[:, None].expand(4, 12)
    out = render_as_published(
        one_norm(), picture + spread, "dn", patch=4, margin=0, statistics=Statistics(0.0, 0)
    )
    assert out[0, 0, 4:8].tolist() == pytest.approx([1 + 3, 1 + 1, 1 - 1, 1 - 3], abs=1e-5)


@pytest.mark.parametrize("kind", ["dn", "dn-paper"])
def test_dense_normalisation_divides_by_the_unbiased_deviation_plus_an_epsilon(kind):
    picture = 1e-7 * image(1, 1)  # of about σ = 1e-7, so that (σ + 1e-7) is not sqrt(σ² + 1e-7)
    out = render_as_published(one_norm(), picture, kind, patch=P, margin=0)
    mean, std = moments(patches(picture))
    expected = (patches(picture) - mean[..., None, None]) / (std + 1e-7)[..., None, None]
    np.testing.assert_allclose(patches(out), expected, atol=1e-5)
    assert 0.05 < np.abs(expected).max() < 1


def test_dense_normalisation_of_a_blank_patch_is_a_number():
    blank = torch.full((3, P, P), 0.5)
    assert torch.isfinite(render_as_published(one_norm(), blank, "dn", patch=P, margin=0)).all()


def test_in_is_every_patch_by_itself():
    picture = image()
    out = render_as_published(one_norm(), picture, "in", patch=P, margin=0)
    expected = nn.functional.instance_norm(torch.from_numpy(patches(picture).reshape(6, 3, P, P)))
    torch.testing.assert_close(
        torch.from_numpy(patches(out).reshape(6, 3, P, P)), expected, rtol=0, atol=1e-5
    )


def test_kin_averages_means_and_deviations_without_epsilon():
    picture = image(3, 3)
    out = render_as_published(one_norm(), picture, "kin", patch=P, margin=0, size=3)
    mean, std = moments(patches(picture))
    expected = (patches(picture)[1, 1] - mean.mean((0, 1))[:, None, None]) / std.mean((0, 1))[:, None, None]
    np.testing.assert_allclose(patches(out)[1, 1], expected, atol=1e-5)
    corner = (4 * mean[0, 0] + 2 * mean[0, 1] + 2 * mean[1, 0] + mean[1, 1]) / 9  # edges replicated
    spread = (4 * std[0, 0] + 2 * std[0, 1] + 2 * std[1, 0] + std[1, 1]) / 9
    expected = (patches(picture)[0, 0] - corner[:, None, None]) / spread[:, None, None]
    np.testing.assert_allclose(patches(out)[0, 0], expected, atol=1e-5)


@pytest.mark.parametrize("size", [3, 5])
def test_a_gaussian_kernel_of_kin_has_a_deviation_of_three_nodes(size):
    picture = image(5, 5)
    out = render_as_published(one_norm(), picture, "kin", patch=P, margin=0, kernel="gaussian", size=size)
    y, x = np.mgrid[:size, :size] - size // 2
    kernel = np.exp(-(x**2 + y**2) / 18)
    kernel /= kernel.sum()
    around = slice(2 - size // 2, 3 + size // 2)
    mean, std = (np.einsum("yx,yxc->c", kernel, t[around, around]) for t in moments(patches(picture)))
    expected = (patches(picture)[2, 2] - mean[:, None, None]) / std[:, None, None]
    np.testing.assert_allclose(patches(out)[2, 2], expected, atol=1e-5)


def test_the_shorter_side_of_a_thumbnail_is_given():
    ramp = torch.linspace(-1, 1, 128).expand(3, 32, 128)
    assert _thumbnail(ramp, 16).shape == (1, 3, 16, 64)
    assert _thumbnail(ramp.mT, 16).shape == (1, 3, 64, 16)
    assert _thumbnail(ramp, 48).shape == (1, 3, 48, 192)  # a small picture is enlarged
    inner = _thumbnail(ramp, 16)[0, 0, 8, 4:-4]  # resizing keeps a ramp, but for its ends
    expected = nn.functional.avg_pool1d(ramp[0, :1], 2)[0, 4:-4]
    torch.testing.assert_close(inner, expected, rtol=0, atol=1e-5)
    assert _thumbnail(2 * (ramp > 0).float() - 1, 48).abs().max() <= 1  # no overshoot


def test_tin_takes_the_unbiased_statistics_of_a_thumbnail():
    picture = image(1, 2, 256)
    out = render_as_published(one_norm(), picture, "tin", patch=256, margin=0)
    thumbnail = _thumbnail(picture, 1024)[0].double().numpy()
    assert thumbnail.shape == (3, 1024, 2048)
    mean, std = moments(thumbnail[None])
    expected = (picture.numpy() - mean[0, :, None, None]) / np.sqrt(std**2 + 1e-5)[0, :, None, None]
    np.testing.assert_allclose(out, expected, atol=1e-5)
    small = render_as_published(one_norm(), picture, "tin", patch=256, margin=0, thumbnail=8)
    mean, std = moments(_thumbnail(picture, 8).double().numpy())  # of 128 values: the biased σ is 0.4 % less
    expected = (picture.numpy() - mean[0, :, None, None]) / np.sqrt(std**2 + 1e-5)[0, :, None, None]
    np.testing.assert_allclose(small, expected, rtol=1e-4, atol=1e-5)


def test_margins_mirror_the_patch_and_are_cropped():
    torch.manual_seed(0)
    net, picture = generator(), image(1, 2, 32)
    out = render_as_published(net, picture, "in", patch=32, margin=4)
    padded = nn.functional.pad(picture[None, :, :, 32:], [4] * 4, mode="reflect")
    expected = NormLayers(net).instance(padded)[0, :, 4:-4, 4:-4]
    torch.testing.assert_close(out[:, :, 32:], expected, rtol=0, atol=5e-6)


def test_the_codes_field_is_stretched_over_its_margins():
    """Two flat patches: at their joint, the field of either ends 20 % of the difference from their middle."""
    flat = torch.cat([torch.full((3, P, P), mean) for mean in (0.0, 1.0)], dim=2)
    out = render_as_published(
        one_norm(), flat, "dn", patch=P, margin=4, statistics=Statistics(1.0, 0)
    )  # 1/σ is 1, so the result is minus the field, but for the picture
    side = P + 8
    last = (4 + P - 0.5) / side - 0.5
    assert -out[0, 0, P - 1].item() == pytest.approx(last, abs=1e-5)
    assert 1 - out[0, 0, P].item() == pytest.approx(1 - last, abs=1e-5)
    assert 1 - 2 * last > 1 / side  # a global field has a step of 1/P at most


def test_without_epsilon_white_is_no_number():
    picture = image(1, 2)
    picture[:, :, P:] = 1
    assert not torch.isfinite(
        render_as_published(one_norm(), picture, "kin", patch=P, margin=0, size=1)
    ).all()
    assert torch.isfinite(render_as_published(one_norm(), picture, "in", patch=P, margin=0)).all()


@pytest.mark.parametrize(("kind", "shape"), [("in", (3, P, P + 1)), ("dn", (3, 0, P)), ("best", (3, P, P))])
def test_what_cannot_be_rendered(kind, shape):
    with pytest.raises(InvalidValueError, match="whole patches of 16 px"):
        render_as_published(one_norm(), torch.zeros(shape), kind, patch=P)
