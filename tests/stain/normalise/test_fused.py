"""Normalising with a field: against independent references, and the same bits in every tiling."""

from __future__ import annotations

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wsigen.stain.normalise import blocks
from wsigen.stain.normalise.blocks import compiles
from wsigen.stain.normalise.field import Axis, Field
from wsigen.stain.normalise.fused import Places, apply_field, gather_normalise

C = 5


def random_field(
    rows: Axis, cols: Axis, interpolation="linear", granularity: int = 1, channels: int = C
) -> Field:
    generator = torch.Generator().manual_seed(3)
    shape = (len(rows.centres), len(cols.centres), channels)
    mean = torch.randn(shape, generator=generator)
    inv_std = torch.rand(shape, generator=generator) + 0.5
    return Field(mean, inv_std, rows, cols, interpolation, granularity)


def features(height: int, width: int, channels: int = C, batch: int = 1) -> Tensor:
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(1)) * 3 + 1


def place(field: Field, shape, origin=(0, 0), scale: float = 1):
    return (
        field.locate(field.rows, origin=origin[0], scale=scale, count=shape[0]),
        field.locate(field.cols, origin=origin[1], scale=scale, count=shape[1]),
    )


def applied(x: Tensor, field: Field, origin=(0, 0), scale: float = 1, **options) -> Tensor:
    return apply_field(x, field, Places([place(field, x.shape[2:], origin, scale)] * len(x)), **options)


def grid(count: int, pitch: int) -> Axis:
    return Axis(tuple((i + 0.5) * pitch for i in range(count)))


@pytest.fixture(params=[True, False], ids=["in place", "apart"])
def overwrite(request) -> bool:
    return request.param


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_maps_are_those_of_interpolate_on_the_grid_of_centres(scale):
    """align_corners=False puts nodes at the centres of cells and clamps beyond the outer ones, as here."""
    pitch, rows, cols = 32, 4, 3
    field = random_field(grid(rows, pitch), grid(cols, pitch))
    size = (rows * pitch // scale, cols * pitch // scale)
    mean, inv_std = (
        F.interpolate(t.permute(2, 0, 1)[None].double(), size, mode="bilinear", align_corners=False)
        for t in (field.mean, field.inv_std)
    )
    x = features(*size)
    torch.testing.assert_close(
        applied(x, field, scale=scale), ((x - mean) * inv_std).float(), rtol=1e-5, atol=2e-6
    )


def test_a_hand_computed_value():
    table = torch.tensor([[0.0, 8.0], [4.0, 12.0]])[:, :, None]
    field = Field(table, table / 4 + 1, Axis((0.0, 4.0)), Axis((0.0, 8.0)))
    x = torch.full((1, 1, 4, 8), 10.0)
    # pixel (1, 5) lies at (1.5, 5.5): mean = 1.5 + 5.5 = 7, 1/σ = 1 + 7/4
    assert applied(x, field)[0, 0, 1, 5].item() == pytest.approx((10 - 7) * 2.75)


@pytest.mark.parametrize("g", [2, 3, 8])
def test_granularity_is_a_coarse_map_repeated(g):
    field = random_field(grid(3, 16), grid(3, 16), granularity=g)
    fine = Field(field.mean, field.inv_std, field.rows, field.cols)
    count = -(-48 // g)
    coarse = applied(torch.zeros(1, C, count, count), fine, scale=g)  # -mean·inv_std at the blocks' centres
    repeated = coarse.repeat_interleave(g, 2).repeat_interleave(g, 3)[:, :, :48, :48]
    assert torch.equal(applied(torch.zeros(1, C, 48, 48), field), repeated)


def test_nearest_is_each_cell_with_its_own_statistics():
    rows, cols = Axis((8.0, 24.0), (16.0,)), Axis((8.0, 22.0, 40.0), (16.0, 28.0))
    field = random_field(rows, cols, "nearest")
    x = features(32, 52)
    out = applied(x, field)
    for r, ys in enumerate((slice(0, 16), slice(16, 32))):
        for c, xs in enumerate((slice(0, 16), slice(16, 28), slice(28, 52))):
            mean, inv_std = (t[r, c][:, None, None] for t in (field.mean, field.inv_std))
            assert torch.equal(out[0, :, ys, xs], (x[0, :, ys, xs] - mean) * inv_std)


def cuts(size: int, *lengths: int) -> list[slice]:
    found, start = [], 0
    for i in range(size):
        stop = min(start + lengths[i % len(lengths)], size)
        found.append(slice(start, stop))
        start = stop
        if stop == size:
            break
    return found


# elements of a block, heights and widths of tiles; only the last has blocks that threads share
TILINGS = [
    (1 << 9, (101,), (1, 17, 33)),
    (1 << 13, (7, 13), (147,)),
    (1 << 11, (29, 5), (64, 3)),
    (1 << 17, (101,), (147,)),
]


@pytest.mark.parametrize("interpolation", ["linear", "nearest"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_every_tiling_gives_the_same_bits(interpolation, threads, layout, monkeypatch):
    rows, cols = Axis((3.0, 41.0, 90.0)), Axis((0.0, 37.0, 64.0, 101.0, 143.0))
    field = random_field(rows, cols, interpolation, channels=19)
    affine = (torch.linspace(0.5, 2, 19), torch.linspace(-1, 1, 19))
    x = features(101, 147, 19).contiguous(memory_format=layout)
    whole = applied(x, field, affine=affine)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for size, ys, xs in TILINGS:
            monkeypatch.setattr(blocks, "CACHE", size)
            for y, z in product(cuts(101, *ys), cuts(147, *xs)):
                tile = applied(x[:, :, y, z].clone(), field, (y.start, z.start), affine=affine)
                assert torch.equal(tile, whole[:, :, y, z])
    finally:
        torch.set_num_threads(before)


def test_tiles_of_a_batch_lie_at_different_places(overwrite):
    field = random_field(grid(3, 40), grid(4, 40))
    whole = applied(features(120, 160), field)
    origins = [(0, 0), (33, 91), (77, 12)]
    tiles = torch.cat([features(120, 160)[:, :, y : y + 43, x : x + 61] for y, x in origins])
    places = Places([place(field, (43, 61), origin) for origin in origins])
    out = apply_field(tiles, field, places, overwrite=overwrite)
    for tile, (y, x) in zip(out, origins, strict=True):
        assert torch.equal(tile, whole[0, :, y : y + 43, x : x + 61])
    assert (out.data_ptr() == tiles.data_ptr()) == overwrite


def test_what_must_not_be_overwritten_is_not():
    x = features(20, 20)
    kept = x.clone()
    applied(x, random_field(grid(2, 10), grid(2, 10)))
    assert torch.equal(x, kept)


def test_layouts_with_gaps_are_copied_and_agree():
    field = random_field(grid(2, 20), grid(3, 20))
    x = features(80, 60)[:, :, ::2]
    kept = x.clone()
    assert torch.equal(applied(x, field, overwrite=True), applied(x.contiguous(), field))
    assert torch.equal(x, kept)
    last = x.contiguous(memory_format=torch.channels_last)
    out = applied(last, field)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(out, applied(x.contiguous(), field))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once_at_the_end(layout, dtype, overwrite):
    field = random_field(grid(3, 20), grid(3, 20))
    affine = (torch.full((C,), 1.5), torch.full((C,), 0.25))
    x = features(60, 60).to(dtype).contiguous(memory_format=layout)
    reference = applied(x.float(), field, affine=affine)
    out = applied(x, field, affine=affine, overwrite=overwrite)
    assert out.dtype == dtype
    assert torch.equal(out, reference.to(dtype))


def test_a_layers_own_weight_and_bias_come_last():
    field = random_field(grid(2, 30), grid(2, 30))
    gain, shift = torch.linspace(-2, 2, C), torch.linspace(3, 4, C)
    x = features(60, 60)
    expected = applied(x, field) * gain[:, None, None] + shift[:, None, None]
    torch.testing.assert_close(applied(x, field, affine=(gain, shift)), expected, rtol=1e-5, atol=2e-6)


def test_one_constant_field_is_exact_even_far_beyond_its_nodes():
    axis = grid(3, 16)
    mean, inv_std = torch.full((3, 3, C), 0.3), torch.full((3, 3, C), 1.7)
    x = features(48, 48)
    out = applied(x, Field(mean, inv_std, axis, axis), origin=(-40, 400))
    assert torch.equal(out, (x - mean[0, 0, 0]) * inv_std[0, 0, 0])


@pytest.mark.parametrize("interpolation", ["linear", "nearest"])
def test_the_expression_for_the_compiler_computes_the_same(interpolation):
    field = random_field(grid(3, 40), grid(4, 40), interpolation)
    x = features(50, 70, batch=2)
    places = Places([place(field, (50, 70), (0, 0)), place(field, (50, 70), (60, 88))])
    shift = torch.linspace(-1, 1, C)
    out = gather_normalise(x, field.mean, field.inv_std, shift, *places.stacked(x.device))
    assert torch.equal(out, apply_field(x, field, places, (torch.ones(C), shift)))
    half = gather_normalise(x.bfloat16(), field.mean, field.inv_std, None, *places.stacked(x.device))
    assert torch.equal(half, apply_field(x.bfloat16(), field, places))


def test_nothing_is_compiled_on_the_cpu():
    assert not compiles(torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_cuda_agrees_with_the_cpu(dtype, layout):
    field = random_field(grid(3, 40), grid(4, 40))
    affine = (torch.linspace(0.5, 2, C), torch.linspace(-1, 1, C))
    x = features(50, 70, batch=2).to(dtype).contiguous(memory_format=layout)
    places = Places([place(field, (50, 70), (0, 0)), place(field, (50, 70), (60, 88))])
    expected = apply_field(x, field, places, affine).float()
    on_device = (affine[0].cuda(), affine[1].cuda())
    rounding = 1e-5 if dtype == torch.float32 else 1e-2
    for fuse in (True, False):
        out = apply_field(x.cuda(), field, places, on_device, fuse=fuse)
        torch.testing.assert_close(out.cpu().float(), expected, rtol=rounding, atol=rounding)


def test_positions_are_stacked_once():
    field = random_field(grid(3, 40), grid(4, 40))
    places = Places([place(field, (5, 7), (0, 0)), place(field, (5, 7), (60, 88))])
    row, down, col, right = places.stacked(torch.device("cpu"))
    assert row.tolist() == [[0] * 5, [1] * 5]
    assert col.tolist() == [[0] * 7, [1] * 7]
    assert down[1].tolist() == pytest.approx([(60.5 + i - 60) / 40 for i in range(5)])
    assert right[1].tolist() == pytest.approx([(88.5 + i - 60) / 40 for i in range(7)])
    assert places.stacked(torch.device("cpu"))[0] is row
