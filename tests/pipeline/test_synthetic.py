"""A slide that is not there has, bit for bit, the pixels of the one that is written."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openslide
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openslide.deepzoom import DeepZoomGenerator
from PIL import Image

import wsigen
from tests.pipeline.models import small_net
from tests.sampling.upscalers import small_upscaler
from tests.stain.models import small_generator
from wsigen.config import SampleConfig
from wsigen.errors import InvalidValueError
from wsigen.geometry import Region
from wsigen.nn.model import save_model
from wsigen.pipeline.sample import sample
from wsigen.slide.provenance import read_provenance
from wsigen.stain.stainer import save_stainer

SIDE, STAGES = 512, 3


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "small"
    save_model(folder, denoiser=small_net(), upscaler=small_upscaler())
    return str(folder)


@pytest.fixture(scope="module")
def stainer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stainers") / "SYN"
    save_stainer(small_generator(blocks=0, marker="SYN", mpp=0.5), folder)
    return str(folder)


@pytest.fixture(scope="module")
def values(model, stainer):
    return {"seed": 3, "size": SIDE, "stages": STAGES, "model": model, "stain": stainer, "device": "cpu"}


@pytest.fixture(scope="module")
def written(values, tmp_path_factory):
    """The same slide in files, lossless."""
    out = tmp_path_factory.mktemp("written")
    sample(SampleConfig(**values, preset="one-step", out=out, name="a", layout="lossless"))
    return out


def in_file(path):
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]


@pytest.fixture(scope="module")
def he(written):
    return in_file(written / "a_HE.ome.tif")


@pytest.fixture(scope="module")
def ihc(written):
    return in_file(written / "a_IHC-SYN.ome.tif")


@pytest.fixture(scope="module")
def slide(values):
    with wsigen.SyntheticSlide(**values, cache="1MiB") as slide:
        yield slide


def crop(image, region):
    return image[region.y : region.y1, region.x : region.x1]


def test_it_says_what_it_is(slide, written):
    assert slide.dimensions == (512, 512)
    assert slide.level_dimensions == ((512, 512), (256, 256), (128, 128), (64, 64))
    assert slide.level_downsamples == (1, 2, 4, 8)
    said, facts = slide.properties, read_provenance(written / "a_HE.ome.tif")
    assert said["openslide.mpp-x"] == said["openslide.mpp-y"] == "0.5"
    assert said["openslide.vendor"] == "wsigen"
    assert said["wsigen.synthetic"] == "true"
    assert said["wsigen.seed"] == "3"
    assert said["wsigen.preset"] == "one-step"
    assert said["wsigen.fingerprint"] == facts["fingerprint"]
    assert "not for diagnosis" in said["wsigen.notice"]
    (stained,) = slide.ihc.values()
    facts = read_provenance(written / "a_IHC-SYN.ome.tif")
    assert stained.properties["wsigen.marker"] == "SYN"
    assert stained.properties["wsigen.fingerprint"] == facts["fingerprint"]
    assert "synthetic stain" in stained.properties["wsigen.notice"]
    assert repr(slide) == "SyntheticSlide(seed=3, 512 x 512 px at 0.5 µm/px)"
    assert slide.get_best_level_for_downsample(5) == 2
    assert dict(slide.associated_images) == {}


@settings(max_examples=10)
@given(y=st.integers(-60, 500), x=st.integers(-60, 500), h=st.integers(1, 140), w=st.integers(1, 140))
def test_level_0_is_the_file(slide, he, y, x, h, w):
    shown = np.asarray(slide.read_region((x, y), 0, (w, h)))
    region = Region(y, x, h, w)
    inside = region.intersect(Region(0, 0, SIDE, SIDE))
    expected = np.zeros((h, w, 4), np.uint8)
    spot = inside.shift(-y, -x)
    expected[spot.y : spot.y1, spot.x : spot.x1, :3] = crop(he, inside)
    expected[spot.y : spot.y1, spot.x : spot.x1, 3] = 255
    assert np.array_equal(shown, expected)


def test_all_at_once_is_the_file_too(slide, he):
    assert he.std() > 5
    assert np.array_equal(slide.read(Region(0, 0, SIDE, SIDE)), he)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_coarser_levels_are_the_slide_that_ends_there(slide, values, level, tmp_path):
    """The stage of a cascade is level 0 of a slide with so many stages fewer."""
    changes = {"size": SIDE >> level, "stages": STAGES - level, "mpp": 0.5 * 2**level, "stain": None}
    sample(SampleConfig(**(values | changes), preset="one-step", out=tmp_path, name="b", layout="lossless"))
    stage, side = in_file(tmp_path / "b_HE.ome.tif"), SIDE >> level
    assert np.array_equal(slide.read(Region(0, 0, side, side), level), stage)
    corner = np.asarray(slide.read_region((256, 192), level, (20, 30)))[..., :3]
    assert np.array_equal(corner, crop(stage, Region(192 >> level, 256 >> level, 30, 20)))


def test_a_slide_that_is_cropped_is_the_file_too(values, tmp_path):
    how = values | {"size": (500, 300)}
    sample(
        SampleConfig(
            **(values | {"size": "500x300"}), preset="one-step", out=tmp_path, name="w", layout="lossless"
        )
    )
    with wsigen.SyntheticSlide(**how) as slide:
        assert slide.level_dimensions == ((500, 300), (250, 150), (125, 75), (63, 38))
        assert repr(slide) == "SyntheticSlide(seed=3, 500 x 300 px at 0.5 µm/px)"
        assert slide.properties["wsigen.size"] == "500x300"
        shown = {"HE": slide, "IHC-SYN": slide.ihc["SYN"]}
        for name, of in shown.items():
            expected = in_file(tmp_path / f"w_{name}.ome.tif")
            assert expected.shape == (300, 500, 3)
            assert np.array_equal(of.read(Region(0, 0, 300, 500)), expected)
        assert slide.read(Region(0, 0, 38, 63), 3).shape == (38, 63, 3)


def test_coarser_levels_are_followed_by_the_means_of_level_0(slide, he):
    means = he.reshape(256, 2, 256, 2, 3).mean(axis=(1, 3))
    stage = slide.read(Region(0, 0, 256, 256), 1)
    assert np.corrcoef(means.ravel(), stage.ravel())[0, 1] > 0.5


def test_the_stain_is_the_file(slide, ihc, he):
    stained = slide.ihc["SYN"]
    assert np.abs(ihc.astype(int) - he).mean() > 5
    for region in (Region(0, 0, 90, 100), Region(201, 333, 77, 60), Region(480, 500, 32, 12)):
        assert np.array_equal(stained.read(region), crop(ihc, region))
    shown = np.asarray(stained.read_region((500, 505), 0, (20, 20)))
    assert np.array_equal(shown[:7, :12, :3], ihc[505:, 500:])
    assert shown[:7, :12, 3].all()
    assert not shown[7:].any()
    assert np.array_equal(stained.read(Region(0, 0, SIDE, SIDE)), ihc)


def test_coarser_levels_of_the_stain_are_those_of_the_slide_that_ends_there(slide, values):
    changes = {"size": SIDE // 2, "stages": STAGES - 1, "mpp": 1.0}
    with wsigen.SyntheticSlide(**(values | changes)) as other:
        region = Region(30, 100, 90, 60)
        assert np.array_equal(slide.ihc["SYN"].read(region, 1), other.ihc["SYN"].read(region))
        assert np.array_equal(
            slide.ihc["SYN"].read(Region(0, 0, 64, 64), 3), other.ihc["SYN"].read(Region(0, 0, 64, 64), 2)
        )


def test_neither_cache_nor_order_nor_threads_can_be_seen(values, he, ihc):
    rng = np.random.default_rng(1)
    regions = [Region(int(y), int(x), 60, 50) for y, x in rng.integers(0, 450, (8, 2))]
    with wsigen.SyntheticSlide(**values, cache=1) as slide, ThreadPoolExecutor(4) as pool:
        stained = pool.submit(slide.ihc["SYN"].read, Region(100, 120, 40, 40))
        for region, pixels in zip(regions, pool.map(slide.read, regions), strict=True):
            assert np.array_equal(pixels, crop(he, region))
        assert np.array_equal(stained.result(), ihc[100:140, 120:160])


def test_a_viewer_can_show_it(slide, he):
    zoom = DeepZoomGenerator(slide, tile_size=254, overlap=1)
    tile = np.asarray(zoom.get_tile(zoom.level_count - 1, (1, 1)))
    assert np.array_equal(tile, he[253:509, 253:509])
    assert slide.get_thumbnail((64, 64)).size == (64, 64)


@pytest.fixture(scope="module")
def from_overview(values, tmp_path_factory):
    """A slide with background and dust, from a picture in place of stage 0; and what it follows from."""
    picture = np.full((128, 128, 3), 243, np.uint8)
    picture[0:20, 4:22] = np.random.default_rng(0).integers(60, 200, (20, 18, 3))
    picture[108, 104:106] = 233
    out = tmp_path_factory.mktemp("overview")
    Image.fromarray(picture).save(out / "overview.png")
    how = {**values, "overview": out / "overview.png", "overview_mpp": 2.0}
    how = {key: value for key, value in how.items() if key not in ("size", "stages")}
    sample(SampleConfig(**how, preset="one-step", out=out, name="c", layout="lossless"))
    return how, in_file(out / "c_HE.ome.tif"), in_file(out / "c_IHC-SYN.ome.tif")


def test_background_and_dust_are_those_of_the_file(from_overview):
    how, he, ihc = from_overview
    untouched = (he == ihc).all(axis=2)
    assert 0.1 < untouched.mean() < 0.9
    with wsigen.SyntheticSlide(**how) as slide:
        assert slide.dimensions == (SIDE, SIDE)
        # the edges of the tissue, the background, the dust, and everything
        for region in (Region(190, 60, 70, 90), Region(450, 450, 62, 62), Region(400, 390, 80, 70)):
            assert np.array_equal(slide.ihc["SYN"].read(region), crop(ihc, region))
            assert np.array_equal(slide.read(region), crop(he, region))
        assert np.array_equal(slide.ihc["SYN"].read(Region(0, 0, SIDE, SIDE)), ihc)
        assert np.array_equal(slide.read(Region(0, 0, SIDE, SIDE)), he)


def test_closed_it_is_closed(values):
    with wsigen.SyntheticSlide(**values) as slide:
        stained = slide.ihc["SYN"]
    for closed in (slide, stained):
        with pytest.raises(InvalidValueError, match="the slide is closed"):
            closed.read(Region(0, 0, 1, 1))


def test_mistakes_are_named(values, tmp_path):
    def opened(**changes):
        return wsigen.SyntheticSlide(**(values | {"stain": None} | changes))

    with pytest.raises(InvalidValueError, match=r"--size must be N or WIDTHxHEIGHT in px.*got '500x0'"):
        opened(size=(500, 0))
    with pytest.raises(InvalidValueError, match=r"diffuses stage 3 of 3, 512 px .*one-step"):
        opened(preset="fast")
    with pytest.raises(InvalidValueError, match="cache must be an amount such as 8GiB or 500MB, got 'much'"):
        opened(cache="much")
    with pytest.raises(InvalidValueError, match="size must be at least 1 x 1 px, got 0 x 5"):
        opened().read_region((0, 0), 0, (0, 5))
    with pytest.raises(InvalidValueError, match="level must be between 0 and 3, got 4"):
        opened().read_region((0, 0), 4, (5, 5))
    save_model(tmp_path / "bare", denoiser=small_net())
    with pytest.raises(InvalidValueError, match=r"--model \S+ has none; pass --upscaler"):
        opened(model=str(tmp_path / "bare"))


def test_importing_the_package_does_not_import_torch():
    code = (
        "import sys, wsigen\nassert 'torch' not in sys.modules\nassert 'SyntheticSlide' in wsigen.__all__\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="has no attribute 'Slides'"):
        _ = wsigen.Slides  # pyright: ignore
