"""Networks round alike with any number of threads, and compute what PyTorch's layers do."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from wsigen.nn.denoiser import Denoiser
from wsigen.nn.rounding import SteadyGroupNorm, SteadyPointwise, SteadySiLU, make_steady, silu

THREADS = (1, 2, 3, 7)


@pytest.fixture
def with_threads():
    """Call a function with every number of threads."""
    before = torch.get_num_threads()

    def call(function):
        results = []
        for threads in THREADS:
            torch.set_num_threads(threads)
            with torch.inference_mode():
                results.append(function())
        return results

    yield call
    torch.set_num_threads(before)


@pytest.fixture
def net():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.GroupNorm(8, 96), nn.SiLU(), nn.Conv2d(96, 320, 1), nn.Conv2d(320, 32, 1))
    nn.init.normal_(layers[0].weight)
    nn.init.normal_(layers[0].bias)
    make_steady(layers)
    return layers.to(memory_format=torch.channels_last)


def images(batch=3, side=48):
    x = torch.randn(batch, 96, side, side + 1, generator=torch.Generator().manual_seed(1))
    return x.contiguous(memory_format=torch.channels_last)


def test_threads_do_not_show(net, with_threads):
    x = images()
    first, *others = with_threads(lambda: net(x))
    assert all(torch.equal(first, other) for other in others)
    assert first.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("side", [8, 48])  # below and above the sums that PyTorch divides
def test_values_are_those_of_the_layers(net, side):
    x = images(2, side)
    kinds = (SteadyGroupNorm, SteadySiLU, SteadyPointwise, SteadyPointwise)
    for layer, kind, plain in zip(net, kinds, (nn.GroupNorm, nn.SiLU, nn.Conv2d, nn.Conv2d), strict=True):
        assert type(layer) is kind
        with torch.inference_mode():
            wanted = plain.forward(layer, x)
            torch.testing.assert_close(layer(x), wanted, atol=1e-5, rtol=1e-5)
        x = wanted.clone()


def test_silu_of_extremes():
    x = torch.tensor([-1e30, -200.0, -90.0, -1.0, 0.0, 1.0, 90.0, 1e30]).reshape(1, 1, 2, 4)
    with torch.inference_mode():
        torch.testing.assert_close(silu(x), F.silu(x.double()).float(), atol=1e-30, rtol=1e-6)


def test_training_and_other_precisions_are_pytorchs_own(net):
    x = images(1, 33).requires_grad_()
    assert torch.equal(net[0](x), F.group_norm(x, 8, net[0].weight, net[0].bias))
    assert torch.equal(silu(x), F.silu(x))
    silu(x).sum().backward()
    assert x.grad is not None
    with torch.inference_mode():
        half = x.detach().bfloat16()
        assert torch.equal(silu(half), F.silu(half))


def test_a_denoiser_rounds_alike(with_threads):
    torch.manual_seed(0)
    net = Denoiser(block_out_channels=(64, 160), layers_per_block=1)
    for weight in (weight for weight in net.parameters() if weight.ndim > 1):
        nn.init.kaiming_normal_(weight)  # some begin as zeros
    x, one = torch.randn(2, 3, 96, 96), torch.ones(2)
    first, *others = with_threads(lambda: net(x, one, one))
    assert first.std() > 0
    assert all(torch.equal(first, other) for other in others)
