"""Whitening against an independent one in float64, and with statistics of a thumbnail."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn

from wsigen.errors import InvalidValueError
from wsigen.stain.normalise import Axis, Field, NormLayers, WhiteningStats
from wsigen.stain.normalise.whiten import InstanceWhitening, inverse_root


def features(batch: int = 2, channels: int = 4, size: int = 40) -> Tensor:
    """Correlated channels that are not centred."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(channels, channels, generator=generator)
    noise = torch.randn(batch, channels, size, size, generator=generator)
    return torch.einsum("ij,bjhw->bihw", mix, noise) + torch.arange(channels)[:, None, None]


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 4, 1), InstanceWhitening(4), nn.Tanh(), nn.Conv2d(4, 5, 1), nn.InstanceNorm2d(5)
    ).eval()


def whitened(x: np.ndarray, eps: float) -> np.ndarray:
    """ZCA of one image by the principal square root of its covariance."""
    flat = x.reshape(len(x), -1).astype(np.float64)
    root = np.real(np.asarray(scipy.linalg.sqrtm(np.cov(flat, bias=True) + eps * np.eye(len(x)))))
    return np.linalg.solve(root, flat - flat.mean(1, keepdims=True)).reshape(x.shape)


@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_each_image_is_whitened_by_itself(eps):
    x = features()
    out = InstanceWhitening(4, eps)(x)
    for one, found in zip(x, out, strict=True):
        np.testing.assert_allclose(found.numpy(), whitened(one.numpy(), eps), atol=2e-5)


def test_whitened_channels_are_uncorrelated_and_of_variance_one():
    flat = InstanceWhitening(4)(features(1))[0].flatten(1).double()
    torch.testing.assert_close(torch.cov(flat, correction=0), torch.eye(4).double(), rtol=0, atol=1e-4)
    assert flat.mean(1).abs().max() < 1e-5


def test_statistics_are_mean_and_biased_covariance():
    x = features()
    stats = InstanceWhitening(4, 0.5).measure(x)
    flat = x.double().flatten(2)
    torch.testing.assert_close(stats.mean.double(), flat.mean(2), rtol=1e-6, atol=1e-6)
    for found, one in zip(stats.covariance, flat, strict=True):
        torch.testing.assert_close(found.double(), torch.cov(one, correction=0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(stats.inv_std.double(), (flat.var(2, correction=0) + 0.5).rsqrt())
    torch.testing.assert_close(stats.whitening, inverse_root(stats.covariance, 0.5))


def test_a_covariance_without_full_rank_is_no_nan():
    x = features(1)
    x[:, 1] = x[:, 0]
    x[:, 2] = 3
    out = InstanceWhitening(4)(x)
    assert torch.isfinite(out).all()
    assert out.std() < 2


def test_bfloat16_is_whitened_in_float32():
    x = features(1).bfloat16()
    out = InstanceWhitening(4)(x)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, InstanceWhitening(4)(x.float()).bfloat16())


def test_tiles_with_a_thumbnails_statistics_are_the_whole_image():
    """Pointwise layers and a field of one node: tile by tile is the same as in one piece."""
    layers = NormLayers(network())
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    stats = layers.measure(nn.functional.avg_pool2d(image, 4))
    assert [type(s) is WhiteningStats for s in stats] == [True, False]
    assert layers.names == ("1", "4")
    alone = Axis((0.0,))
    whitening = stats[0]
    assert isinstance(whitening, WhiteningStats)
    fields = [whitening, Field(stats[1].mean[:, None], stats[1].inv_std[:, None], alone, alone)]
    whole = layers.render(image, fields, [(0, 0)])
    for y, x in ((0, 0), (17, 33)):
        tile = layers.render(image[:, :, y : y + 31, x : x + 20], fields, [(y, x)])
        torch.testing.assert_close(tile, whole[:, :, y : y + 31, x : x + 20], rtol=1e-4, atol=1e-4)


def test_with_its_own_statistics_the_network_is_what_it_was():
    net = network()
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        expected = net(x)
    layers = NormLayers(net)
    torch.testing.assert_close(layers.instance(x), expected, rtol=0, atol=5e-6)


def test_what_layers_need_is_told():
    layers = NormLayers(network())
    x = torch.rand(1, 3, 32, 32)
    whitening, norm = layers.measure(x)
    assert isinstance(whitening, WhiteningStats)
    alone = Axis((0.0,))
    field = Field(norm.mean[:, None], norm.inv_std[:, None], alone, alone)
    four = Field(whitening.mean[:, None], whitening.inv_std[:, None], alone, alone)
    with pytest.raises(InvalidValueError, match="layer 1 whitens and needs WhiteningStats"):
        layers.render(x, [four, field], [(0, 0)])
    five = WhiteningStats(norm.mean, norm.inv_std, whitening.covariance, whitening.whitening)
    with pytest.raises(InvalidValueError, match="layer 4 is an instance norm and needs a Field"):
        layers.render(x, [whitening, five], [(0, 0)])
