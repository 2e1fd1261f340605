"""Plain instance normalisation, which gives out its statistics: against torch's and in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wsigen.stain.normalise import blocks
from wsigen.stain.normalise.field import Axis, Field
from wsigen.stain.normalise.fused import Places, apply_field
from wsigen.stain.normalise.moments import instance_normalise, moments_normalise

LAYOUTS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])


def features(batch: int = 2, channels: int = 7, height: int = 53, width: int = 41) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, channels, height, width, generator=generator) * 3 + 40


def exact(x: Tensor, eps: float = 1e-5, correction: int = 0) -> tuple[Tensor, Tensor]:
    flat = x.double().flatten(2)
    return flat.mean(2), (flat.var(2, correction=correction) + eps).rsqrt()


@LAYOUTS
def test_statistics_are_those_of_float64(layout):
    x = features().contiguous(memory_format=layout)
    _, mean, inv_std = instance_normalise(x, 1e-5)
    expected = exact(x)
    assert mean.dtype == inv_std.dtype == torch.float32
    torch.testing.assert_close(mean.double(), expected[0], rtol=2e-7, atol=0)
    torch.testing.assert_close(inv_std.double(), expected[1], rtol=5e-7, atol=0)


@LAYOUTS
def test_the_result_is_that_of_torch(layout):
    x = features().contiguous(memory_format=layout)
    out, *_ = instance_normalise(x, 1e-5)
    torch.testing.assert_close(out, F.instance_norm(x), rtol=0, atol=5e-6)  # torch cancels more: x is near 40
    gain, shift = torch.linspace(-1, 2, 7), torch.linspace(0, 3, 7)
    affine, *_ = instance_normalise(x, 1e-5, (gain, shift))
    torch.testing.assert_close(affine, F.instance_norm(x, weight=gain, bias=shift), rtol=0, atol=1e-5)


def test_where_values_are_of_order_one_torch_differs_by_less_than_a_millionth():
    x = (features() - 40) / 3
    torch.testing.assert_close(instance_normalise(x, 1e-5)[0], F.instance_norm(x), rtol=0, atol=1e-6)


@LAYOUTS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("affine", [True, False])
def test_a_field_of_one_node_gives_the_same_bits(layout, dtype, affine):
    x = features(1).to(dtype).contiguous(memory_format=layout)
    own = (torch.linspace(-1, 2, 7), torch.linspace(0, 3, 7)) if affine else None
    out, mean, inv_std = instance_normalise(x, 1e-5, own)
    alone = Axis((20.0,))
    field = Field(mean[None], inv_std[None], alone, alone)
    place = (
        field.locate(alone, origin=0, scale=1, count=53),
        field.locate(alone, origin=0, scale=1, count=41),
    )
    assert torch.equal(out, apply_field(x, field, Places([place]), own))


@LAYOUTS
@pytest.mark.parametrize("height", [53, 3])
def test_a_patch_depends_on_itself_alone(layout, height, monkeypatch):
    x = features(4, 7, height).contiguous(memory_format=layout)
    together = instance_normalise(x, 1e-5)
    for b in range(4):
        alone = instance_normalise(x[b : b + 1].contiguous(memory_format=layout), 1e-5)
        assert all(torch.equal(t[b : b + 1], a) for t, a in zip(together, alone, strict=True))


@LAYOUTS
def test_the_number_of_threads_cannot_be_seen(layout):
    x = features(1, 8, 300, 200).contiguous(memory_format=layout)
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(instance_normalise(x, 1e-5))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_bfloat16_is_summed_in_float32():
    """A sum of 16384 ones is 256 in bfloat16 arithmetic; and the mean needs more digits than bfloat16 has."""
    x = torch.ones(1, 2, 128, 128, dtype=torch.bfloat16)
    x[0, 1, ::2] = 1.0078125  # the next number
    out, mean, inv_std = instance_normalise(x, 1e-5)
    assert mean.tolist() == [[1.0, 1.00390625]]
    assert inv_std[0, 1].item() == pytest.approx((0.00390625**2 + 1e-5) ** -0.5, rel=1e-6)
    assert out.dtype == torch.bfloat16
    assert not out[0, 0].any()


def test_unbiased_variance_and_other_eps():
    x = features(height=5, width=4)
    _, _, inv_std = instance_normalise(x, 1e-2, correction=1)
    torch.testing.assert_close(inv_std.double(), exact(x, 1e-2, 1)[1], rtol=5e-7, atol=0)


@pytest.mark.parametrize("correction", [0, 1])
def test_an_epsilon_beside_the_root(correction):
    x = features(height=5, width=4)
    found = instance_normalise(x, 0.0, std_eps=0.5, correction=correction)
    mean, std = x.double().mean((2, 3)), x.double().flatten(2).std(2, correction=correction)
    torch.testing.assert_close(found[2].double(), 1 / (std + 0.5), rtol=5e-7, atol=0)
    expected = (x - mean[..., None, None]) / (std + 0.5)[..., None, None]
    torch.testing.assert_close(found[0].double(), expected, rtol=0, atol=1e-6)
    compiled = moments_normalise(x, 0.0, None, None, correction, 0.5)
    for a, b in zip(compiled, found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=5e-6)


def test_constant_patches_become_zero_but_for_the_rounding_of_the_mean():
    out, mean, inv_std = instance_normalise(torch.full((1, 2, 9, 9), 0.7), 1e-5)
    assert out.abs().max() < 1e-4
    assert mean[0].tolist() == pytest.approx([0.7] * 2, rel=2e-7)
    assert inv_std[0].tolist() == pytest.approx([1e5**0.5] * 2)


@LAYOUTS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_place_or_apart(layout, dtype, monkeypatch):
    x = features().to(dtype).contiguous(memory_format=layout)
    kept = x.clone()
    apart, *_ = instance_normalise(x, 1e-5)
    assert torch.equal(x, kept)
    monkeypatch.setattr(blocks, "CACHE", 512)  # more channels and rows than fit
    out, *_ = instance_normalise(x, 1e-5, overwrite=True)
    assert out.data_ptr() == x.data_ptr()
    torch.testing.assert_close(out, apart)
    assert out.is_contiguous(memory_format=layout)


def test_layouts_with_gaps():
    x = features()[:, ::2]
    kept = x.clone()
    out, *_ = instance_normalise(x, 1e-5, overwrite=True)
    assert torch.equal(x, kept)
    assert torch.equal(out, instance_normalise(kept, 1e-5)[0])


@pytest.mark.parametrize("affine", [True, False])
def test_the_expression_for_the_compiler_computes_the_same(affine):
    x = features()
    own = (torch.linspace(-1, 2, 7), torch.linspace(0, 3, 7)) if affine else None
    expected = instance_normalise(x, 1e-5, own)
    found = moments_normalise(x, 1e-5, *(own or (None, None)), 0)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-5)
