"""Which inputs may be overwritten: those that nothing else needs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.stain.normalise.networks import Residual, Shared, UNet, generator
from wsigen.stain.normalise.layers import NormLayers
from wsigen.stain.normalise.passes import Trace, run_pass


def overwritten(net: nn.Module) -> dict[str, bool]:
    layers = NormLayers(net)
    trace = Trace(lambda layer, x: nn.functional.instance_norm(x), {m: n for n, m in net.named_modules()})
    x = torch.rand(1, 3, 32, 32)
    with torch.inference_mode(), trace, run_pass(trace):
        net(x)
    calls = trace.calls()
    layers.measure(x)
    assert layers.names == tuple(call.name for call in calls)
    assert layers.channels == tuple(call.channels for call in calls)
    return {call.name: call.overwrite for call in calls}


class Written(nn.Module):
    """A network around one norm, whose forward is given."""

    def __init__(self, body: Callable[[Written, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.norm, self.body = nn.Conv2d(3, 4, 3, padding=1), nn.InstanceNorm2d(4), body
        self.constant = nn.Parameter(torch.rand(1, 4, 8, 8))
        self.kept: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


def keep(net: Written, x: Tensor) -> Tensor:
    x = net.conv(x)
    net.kept.append(x)
    return net.norm(x)


def add(net: Written, x: Tensor) -> Tensor:
    x = net.conv(x)
    return net.norm(x) + x


def halves(net: Written, x: Tensor) -> Tensor:
    features = net.conv(torch.cat([x, x]))
    a, b = features.chunk(2)
    return net.norm(a) * b


BODIES = {
    "nothing else": (lambda net, x: net.norm(net.conv(x)), True),
    "a read before": (lambda net, x: net.norm(torch.relu_(net.conv(x))), True),
    "a residual connection": (add, False),
    "a list of features": (keep, False),
    "the other half of its memory": (halves, False),
    "the caller's own image": (lambda net, x: net.norm(x.view_as(x)), False),
    "a parameter": (lambda net, x: net.norm(net.constant), False),
}


@pytest.mark.parametrize("case", BODIES)
def test_who_needs_the_input(case):
    body, free = BODIES[case]
    assert overwritten(Written(body)) == {"norm": free}


def test_generators_normalise_in_place_but_for_what_skips_a_block():
    assert overwritten(generator()) == {"1": True, "4": True, "6.norm": False, "9": True}
    assert list(overwritten(nn.Sequential(nn.Conv2d(3, 3, 1), Residual(3))).values()) == [False]
    assert all(overwritten(UNet()).values())


def test_two_branches_from_one_input_free_it_for_the_last_alone():
    assert overwritten(Shared()) == {"norm": False, "norm:2": True, "norm:3": True}


def test_operations_of_the_layer_itself_do_not_count():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.InstanceNorm2d(4, affine=True))
    layers = NormLayers(net)
    x = torch.rand(1, 3, 16, 16)
    first, second = layers.instance(x), layers.instance(x)
    assert torch.equal(first, second)
    assert overwritten(net) == {"1": True}
