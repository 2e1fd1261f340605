"""Octaves against what defines them, and coefficients against the properties that they are chosen for."""

import pytest
import torch
from torch import Tensor

from wsigen.diffusion.precondition import precondition
from wsigen.diffusion.spectrum import (
    combine,
    image_std,
    merge,
    noise_std,
    split,
    std_at,
    to_opponent,
    to_rgb,
)

SIGMA = torch.tensor([0.01, 0.3, 4.0, 60.0])
STD = torch.tensor([[0.17, 0.01, 0.02], [0.2, 0.02, 0.02], [0.1, 0.03, 0.03], [1.0, 0.1, 0.2]])
EDM = torch.full((1, 3), 0.5)


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def drawn(batch: int = 4, size: int = 128) -> Tensor:
    """Gaussian images whose parts have the strengths of ``STD``, nearly."""
    parts = split(randn(batch, 3, size, size, seed=0), len(STD) - 1)
    scaled = [s[:, None, None] / n * p for s, n, p in zip(STD, noise_std(len(STD) - 1), parts, strict=True)]
    return to_rgb(merge(scaled))


def test_colours_are_turned_and_turned_back():
    x = randn(2, 3, 8, 8, seed=1)
    turned = to_opponent(x)
    torch.testing.assert_close(to_rgb(turned), x)
    torch.testing.assert_close(turned.square().sum(dim=1), x.square().sum(dim=1))
    grey = to_opponent(torch.full((1, 3, 1, 1), 0.5)).flatten()
    torch.testing.assert_close(grey, torch.tensor([0.5 * 3**0.5, 0.0, 0.0]))


@pytest.mark.parametrize("octaves", [0, 1, 3, 5])
def test_octaves_add_up_to_the_image(octaves):
    x = randn(2, 3, 32, 64, seed=1)
    parts = split(x, octaves)
    assert [tuple(p.shape[2:]) for p in parts] == [(32 >> k, 64 >> k) for k in range(octaves + 1)]
    torch.testing.assert_close(merge(parts), x)


def test_a_constant_image_has_no_octaves():
    parts = split(torch.full((1, 3, 16, 16), 0.7), 3)
    assert all(p.abs().max() < 1e-6 for p in parts[:-1])
    torch.testing.assert_close(parts[-1], torch.full((1, 3, 2, 2), 0.7))


def test_strength_of_noise_is_what_noise_has_in_every_colour():
    found = image_std(randn(8, 3, 256, 256, seed=2), 4)
    torch.testing.assert_close(found, torch.tensor(noise_std(4))[:, None].expand(5, 3), rtol=0.04, atol=0)


def test_detail_of_one_wavelength_lies_in_its_octave():
    x = torch.arange(64) // 4 % 2  # 8 px: neither the finest octave nor what remains below three
    strengths = image_std((2.0 * x - 1).expand(1, 3, 64, 64), 3)
    assert int(strengths[:, 0].argmax()) in (1, 2)
    assert strengths[3, 0] < 1e-6
    assert strengths[:, 1:].abs().max() < 1e-6  # it is grey


def test_with_one_strength_for_all_it_is_edm():
    x, F_x = randn(2, 4, 3, 8, 8, seed=3)
    c = precondition(SIGMA[:, None, None, None], 0.5)
    torch.testing.assert_close(combine(x, to_opponent(F_x), SIGMA, EDM), c.c_skip * x + c.c_out * F_x)


def test_without_the_network_the_error_is_less_than_edms():
    clean = drawn()
    x = clean + SIGMA[:, None, None, None] * randn(*clean.shape, seed=4)
    std, whole = image_std(clean, 3), clean.square().mean().sqrt().expand(1, 3)
    ours, edms = (
        (combine(x, torch.zeros_like(x), SIGMA, s) - clean).square().mean(dim=(1, 2, 3)) for s in (std, whole)
    )
    assert (ours < 1.01 * edms).all()
    assert ours[1] < 0.3 * edms[1]  # where detail drowns and structure does not


def test_white_images_have_edms_coefficients_in_every_octave():
    # octaves as strong as those of white images of σ_data: the filter is EDM's c_skip, whatever the split
    x, F_x = randn(2, 4, 3, 32, 32, seed=5)
    white = 0.5 * torch.tensor(noise_std(3))[:, None].expand(4, 3)
    nothing = torch.zeros_like(x)
    torch.testing.assert_close(combine(x, nothing, SIGMA, white), combine(x, nothing, SIGMA, EDM))
    parts = [n * p for n, p in zip(noise_std(3), split(F_x, 3), strict=True)]
    torch.testing.assert_close(
        combine(nothing, F_x, SIGMA, white), combine(nothing, merge(parts), SIGMA, EDM)
    )


def test_images_of_a_batch_have_coefficients_of_their_own():
    x, F_x = randn(2, 4, 3, 16, 16, seed=7)
    together = combine(x, F_x, SIGMA, STD)
    for i in range(4):
        alone = combine(x[i : i + 1], F_x[i : i + 1], SIGMA[i : i + 1], STD)
        torch.testing.assert_close(together[i : i + 1], alone)


def test_strengths_of_one_node_count_at_every_scale():
    at = std_at(torch.tensor([0.1, 8.0, 300.0]), torch.tensor([8.0]), STD[None])
    assert torch.equal(at, STD.expand(3, -1, -1))


def test_strengths_between_nodes_are_linear_in_the_logarithm_of_the_scale():
    nodes, table = torch.tensor([1.0, 4.0, 64.0]), torch.stack([STD, 3 * STD, 2 * STD])
    mpp = torch.tensor([0.3, 1.0, 2.0, 4.0, 16.0, 32.0, 64.0, 100.0])
    factors = torch.tensor([1.0, 1.0, 2.0, 3.0, 2.5, 2.25, 2.0, 2.0])
    torch.testing.assert_close(std_at(mpp, nodes, table), factors[:, None, None] * STD)


def test_images_may_have_strengths_of_their_own():
    x, F_x = randn(2, 4, 3, 16, 16, seed=7)
    tables = torch.stack([STD, 0.5 * STD, 2 * STD, STD])
    together = combine(x, F_x, SIGMA, tables)
    for i, table in enumerate(tables):
        alone = combine(x[i : i + 1], F_x[i : i + 1], SIGMA[i : i + 1], table)
        torch.testing.assert_close(together[i : i + 1], alone)
    assert torch.equal(combine(x, F_x, SIGMA, STD.expand(4, -1, -1)), combine(x, F_x, SIGMA, STD))
