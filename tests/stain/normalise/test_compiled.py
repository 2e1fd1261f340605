"""What is compiled on CUDA can be traced as one graph, for any size; and where it is compiled."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from wsigen.stain.normalise import blocks as module
from wsigen.stain.normalise.blocks import compiled, compiles
from wsigen.stain.normalise.field import Axis, Field
from wsigen.stain.normalise.fused import Places, gather_normalise
from wsigen.stain.normalise.moments import moments_normalise


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def test_it_is_the_device_that_decides(monkeypatch):
    for triton in (True, False):
        monkeypatch.setattr(module, "_has_triton", lambda there=triton: there)
        assert compiles(torch.device("cuda", 1)) == triton
        assert not compiles(torch.device("cpu"))


def test_a_function_is_compiled_once():
    assert compiled(gather_normalise) is compiled(gather_normalise)


@torch.inference_mode()
def test_both_expressions_are_one_graph_for_every_size():
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    gather = torch.compile(gather_normalise, backend=backend, dynamic=True, fullgraph=True)
    moments = torch.compile(moments_normalise, backend=backend, dynamic=True, fullgraph=True)
    axis = Axis((4.0, 20.0, 50.0))
    for channels, size in ((4, 16), (6, 40), (8, 33)):
        field = Field(torch.rand(3, 3, channels), torch.rand(3, 3, channels), axis, axis)
        place = field.locate(axis, origin=3, scale=1, count=size)
        x = torch.rand(2, channels, size, size)
        inputs = (x, field.mean, field.inv_std, None, *Places([(place, place)] * 2).stacked(x.device))
        assert torch.equal(gather(*inputs), gather_normalise(*inputs))
        found, expected = moments(x, 1e-5, None, None, 0), moments_normalise(x, 1e-5, None, None, 0)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert len(graphs) == 2
