"""A stage by the upscaler is a function of position: the same bits in any region, tile and batch."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sampling.stores import GLASS, ImageSource, noise_image
from tests.sampling.upscalers import small_upscaler
from wsigen.errors import InvalidValueError
from wsigen.geometry import Region, Size
from wsigen.nn.images import to_unit
from wsigen.nn.upscaler import Upscaler, enlarged
from wsigen.sampling.noise import Noise
from wsigen.sampling.pixels import SkipRule, bilinear
from wsigen.sampling.spec import UpscaleSpec
from wsigen.sampling.tiles import CELL, LEAST
from wsigen.sampling.upscale import TileOptions, UpscaledStage, mirrored_dims

NET = small_upscaler()
SKIP = SkipRule(tolerance=8, margin=8)


def islands(side: int, seed: int = 0) -> ImageSource:
    """Tissue in two spots, background around them."""
    image = np.full((side, side, 3), GLASS, np.uint8)
    rng = np.random.default_rng(seed)
    for y, x, size in ((side // 8, side // 2, side // 5), (side * 3 // 4, side // 4, side // 9)):
        image[y : y + size, x : x + size] = rng.integers(40, 220, (size, size, 3))
    return ImageSource(image)


def stage(source: ImageSource, *, net=NET, skip=None, seed=3, mpp=0.7, **options) -> UpscaledStage:
    spec = UpscaleSpec(
        stage=2, size=Size(*source.image.shape[:2]).times(2), k=2, mpp=mpp, seed=seed, skip=skip
    )
    return UpscaledStage(spec, net, source, background=GLASS, options=TileOptions(**options))


def whole(of: UpscaledStage) -> np.ndarray:
    return of.read(of.spec.bounds)


def in_one_piece(source: ImageSource, net: Upscaler, *, seed=3, mpp=0.7) -> np.ndarray:
    """The stage in one evaluation, without tiles, its guide continued on all sides."""
    side, around = len(source.image), net.stride * 32
    wide = np.pad(source.image, ((around, around), (around, around), (0, 0)), mode="edge")
    y = to_unit(torch.from_numpy(np.stack([wide]))).permute(0, 3, 1, 2)
    noise = Noise(seed, 2, channels=net.noise_channels).region(Region(0, 0, side, side).pad(around))
    y, z = (v.contiguous(memory_format=torch.channels_last) for v in (y, torch.from_numpy(np.stack([noise]))))
    x = net(y, z, torch.tensor([mpp]))
    kept = x[0, :, 2 * around : 2 * (around + side), 2 * around : 2 * (around + side)]
    return ((kept + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()


SOURCE = noise_image(160)
WHOLE = in_one_piece(SOURCE, NET)
ISLANDS = islands(300)
SKIPPED = whole(stage(ISLANDS, skip=SKIP, tile=512))


def test_the_random_network_adds_detail_that_its_noise_and_guide_decide():
    flat = bilinear(np.pad(SOURCE.image, ((1, 1), (1, 1), (0, 0)), mode="edge"), 2).astype(int)
    assert 5 < np.abs(WHOLE - flat).mean() < 60
    assert not np.array_equal(WHOLE, in_one_piece(SOURCE, NET, seed=4))
    assert not np.array_equal(WHOLE, in_one_piece(SOURCE, NET, mpp=7.0))


@pytest.mark.parametrize("tile", [32, 50, 64, 160, 512])
def test_tiles_cannot_be_seen(tile):
    assert np.array_equal(whole(stage(SOURCE, tile=tile)), WHOLE)


@pytest.mark.parametrize("batch", [2, 3, 64])
def test_batches_and_threads_cannot_be_seen(batch):
    with ThreadPoolExecutor(3) as pool:
        assert np.array_equal(whole(stage(SOURCE, tile=48, batch=batch, pool=pool)), WHOLE)


def test_the_number_of_threads_cannot_be_seen():
    threads = torch.get_num_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            assert np.array_equal(whole(stage(SOURCE, tile=100)), WHOLE)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("k", [2, 3, 4])
def test_what_the_network_adds_to_is_bilinear(k):
    y = torch.rand(2, 3, 7, 5, generator=torch.Generator().manual_seed(0))
    exact = torch.nn.functional.interpolate(y.double(), scale_factor=k, mode="bilinear")
    torch.testing.assert_close(enlarged(y, k).double(), exact, rtol=0, atol=1e-6)


@settings(max_examples=8, deadline=None)
@given(y=st.integers(0, 319), x=st.integers(0, 319), h=st.integers(1, 200), w=st.integers(1, 200))
def test_any_region_is_a_part_of_the_stage(y, x, h, w):
    region = Region(y, x, h, w).intersect(Region(0, 0, 320, 320))
    assert np.array_equal(
        stage(SOURCE, tile=64).read(region), WHOLE[region.y : region.y1, region.x : region.x1]
    )


def test_the_default_network_needs_no_more_than_the_least_side():
    torch.manual_seed(0)
    net = Upscaler().eval().requires_grad_(False)
    for block in net.modules():
        if hasattr(block, "gain"):
            torch.nn.init.constant_(block.gain, 1.0)
    source = noise_image(72, seed=5)
    one = whole(stage(source, net=net))
    assert np.array_equal(whole(stage(source, net=net, tile=32)), one)
    assert np.array_equal(stage(source, net=net).read(Region(7, 135, 3, 9)), one[7:10, 135:])
    assert LEAST % net.stride == 0


def test_background_is_the_bilinear_guide_and_tissue_is_not_touched():
    flat = bilinear(np.pad(ISLANDS.image, ((1, 1), (1, 1), (0, 0)), mode="edge"), 2)
    full = whole(stage(ISLANDS))
    evaluated = (full == SKIPPED).all(axis=2)
    left_out = (flat == SKIPPED).all(axis=2)
    assert (evaluated | left_out).all()
    assert left_out.mean() > 0.5
    tissue = (ISLANDS.image != GLASS).any(axis=2).repeat(2, axis=0).repeat(2, axis=1)
    near = (
        np.asarray(torch.nn.functional.max_pool2d(torch.from_numpy(tissue)[None, None].float(), 17, 1, 8)) > 0
    )
    assert evaluated[near[0, 0]].all()


@pytest.mark.parametrize("options", [{"tile": 32}, {"tile": 77, "batch": 4}, {"tile": 100}])
def test_tiles_cannot_be_seen_in_what_is_skipped(options):
    assert np.array_equal(whole(stage(ISLANDS, skip=SKIP, **options)), SKIPPED)


@settings(max_examples=8, deadline=None)
@given(y=st.integers(0, 599), x=st.integers(0, 599), h=st.integers(1, 260), w=st.integers(1, 260))
def test_any_region_skips_the_same(y, x, h, w):
    region = Region(y, x, h, w).intersect(Region(0, 0, 600, 600))
    part = stage(ISLANDS, skip=SKIP, tile=128).read(region)
    assert np.array_equal(part, SKIPPED[region.y : region.y1, region.x : region.x1])


def test_a_tile_of_background_is_not_evaluated():
    done: list[int] = []
    whole(stage(ISLANDS, skip=SKIP, tile=CELL, done=done.append))
    assert len(done) == 100
    assert 0 < sum(done) < 40
    empty = ImageSource(np.full((64, 64, 3), 240, np.uint8))
    assert (whole(stage(empty, skip=SKIP, done=done.append)) == 240).all()
    assert done[-1] == 0


def test_no_more_of_the_guide_is_read_than_announced():
    read: list[Region] = []

    class Watched(ImageSource):
        def read(self, region):
            read.append(region)
            return super().read(region)

    of = stage(Watched(ISLANDS.image), skip=SKIP, tile=64)
    region = Region(200, 301, 150, 31)
    of.read(region)
    union = of.tiling.guide_region(region)
    assert all(r.intersect(union) == r for r in read)
    assert union.height <= 75 + 2 * (CELL - 1 + 8) + CELL


def test_mistakes_are_named():
    with pytest.raises(InvalidValueError, match="reaches outside stage 2, which is 320 pixels"):
        stage(SOURCE).read(Region(0, 300, 10, 21))
    with pytest.raises(InvalidValueError, match="enlarges 3 times, the stages grow 2 times; pass --k 3"):
        stage(SOURCE, net=small_upscaler(k=3))
    with pytest.raises(InvalidValueError, match="tile must be at least 32"):
        TileOptions(tile=16)


def test_values_that_are_not_numbers_are_refused():
    net = small_upscaler()
    net.out.bias[1] = float("nan")
    with pytest.raises(InvalidValueError, match=r"NaN or infinity in stage 2 at 0\.7 µm/px"):
        whole(stage(SOURCE, net=net))


def test_every_other_stage_is_drawn_after_half_a_turn():
    """What bias of direction an upscaler has must not add up from stage to stage."""
    even, odd = (mirrored_dims(stage) for stage in (2, 3))
    x = torch.arange(12.0).reshape(1, 1, 3, 4)
    assert torch.equal(x.flip(even), x)
    assert torch.equal(x.flip(odd), torch.rot90(x, 2, (2, 3)))
