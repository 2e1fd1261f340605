"""Translating a region of a slide, and what lies inside a mask: pixel by pixel that of the whole slide."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import openslide
import pytest
from PIL import Image

import wsigen
from tests.stain.models import small_generator
from tests.synthetic import he_image, write_tiff
from wsigen.config import TranslateConfig
from wsigen.errors import InvalidValueError, OutputError, SlideError
from wsigen.pipeline.translate import open_run, translate
from wsigen.stain.stainer import save_stainer

HEIGHT, WIDTH = 900, 700
X, Y, W, H = 150, 260, 301, 407
HOLE = (300, 400, 60, 50)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A slide, two stainers with norm layers, and masks of one part: a box with a hole."""
    folder = tmp_path_factory.mktemp("part")
    image = he_image((HEIGHT, WIDTH), seed=3)
    write_tiff(folder / "case_HE.tif", image, 0.5, levels=2, compression="zstd")
    for seed, marker in enumerate(("SYN", "CGA")):
        save_stainer(small_generator(blocks=1, seed=seed, marker=marker, mpp=0.5), folder / marker)
    (folder / "masks").mkdir()
    rings = [ring(X, Y, W, H), ring(*HOLE)]
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": rings}, "properties": {}}
    collection = {"type": "FeatureCollection", "features": [feature]}
    (folder / "masks" / "case.geojson").write_text(json.dumps(collection))
    Image.fromarray(inside_mask()).save(folder / "mask.png")
    Image.fromarray(np.ones((9, 7), bool)).save(folder / "all.png")
    return folder


def ring(x, y, width, height):
    return [[x, y], [x + width, y], [x + width, y + height], [x, y + height], [x, y]]


def inside_mask():
    inside = np.zeros((HEIGHT, WIDTH), bool)
    inside[Y : Y + H, X : X + W] = True
    x, y, width, height = HOLE
    inside[y : y + height, x : x + width] = False
    return inside


@pytest.fixture
def config(folder, tmp_path):
    return TranslateConfig(
        slide=folder / "case_HE.tif",
        stainer=str(folder / "SYN"),
        out=tmp_path / "out",
        layout="lossless",
        dtype="float32",
        device="cpu",
        tile=256,
    )


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """The IHC slide of the whole slide."""
    out = tmp_path_factory.mktemp("whole")
    options = {"layout": "lossless", "dtype": "float32", "device": "cpu"}
    (files,) = translate(
        TranslateConfig(slide=folder / "case_HE.tif", stainer=str(folder / "SYN"), out=out, **options)
    )
    return pixels(files.slide)


def pixels(path):
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]


REGION = f"{X},{Y},{W},{H}"


def test_a_region_has_the_pixels_of_the_whole_slide(config, whole):
    (files,) = translate(replace(config, region=REGION))
    np.testing.assert_array_equal(pixels(files.slide), whole[Y : Y + H, X : X + W])
    with openslide.OpenSlide(files.slide) as slide:
        assert slide.dimensions == (W, H)
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.5)
    facts = json.loads(files.provenance.read_text())
    assert (facts["height"], facts["width"], facts["mpp"]) == (H, W, 0.5)
    at = {"x": X, "y": Y, "width": W, "height": H, "of_width": WIDTH, "of_height": HEIGHT}
    assert facts["source"]["region"] == at
    with pytest.raises(OutputError, match="exists already"):
        translate(config)


def test_several_stains_of_a_region_interrupted(config, folder, whole, tmp_path):
    both = replace(config, region="300,100,128,700", stainer=f"{folder / 'SYN'},{folder / 'CGA'}")

    class Stop(Exception):
        pass

    def stop(done):
        if done >= 512:
            raise Stop

    open_run(both).make(block=512)
    other = replace(both, out=tmp_path / "other")
    with pytest.raises(Stop):
        open_run(other).make(block=512, progress=stop)
    rows = [output.open_journal(block=512).rows_done for output in open_run(other).outputs]
    assert rows == [512, 512]
    files = open_run(other).make(block=512)
    for file in files:
        assert file.slide.read_bytes() == (config.out / file.slide.name).read_bytes()
    np.testing.assert_array_equal(pixels(files[0].slide), whole[100:800, 300:428])


def test_outside_a_mask_there_is_glass(config, folder, whole):
    (files,) = translate(replace(config, mask=folder / "masks"))
    found, inside = pixels(files.slide), inside_mask()
    assert found.shape == whole.shape
    glass = open_run(config).background.colour
    assert (found[~inside] == glass).all()
    tissue = inside & (whole != glass).any(axis=2)
    assert (found[tissue] != glass).any(axis=1).mean() > 0.99
    source = json.loads(files.provenance.read_text())["source"]
    assert source["mask"] == "case.geojson"
    assert len(source["mask_sha256"]) == 64


def test_an_image_masks_like_the_polygons_that_it_shows(config, folder, tmp_path):
    one, other = (
        translate(replace(config, mask=folder / mask, out=tmp_path / mask))[0]
        for mask in ("masks/case.geojson", "mask.png")
    )
    np.testing.assert_array_equal(pixels(one.slide), pixels(other.slide))


def test_a_mask_of_the_whole_slide_changes_nothing(config, folder, whole):
    (files,) = translate(replace(config, mask=folder / "all.png"))
    np.testing.assert_array_equal(pixels(files.slide), whole)


def test_a_region_of_a_masked_slide(config, folder, tmp_path):
    masked = replace(config, mask=folder / "masks")
    (files,) = translate(masked)
    (part,) = translate(replace(masked, region=f"50,200,{W},{H}", out=tmp_path / "part"))
    wanted = pixels(files.slide)[200 : 200 + H, 50 : 50 + W]
    np.testing.assert_array_equal(pixels(part.slide), wanted)


def test_from_python_before_and_after_it_is_saved(folder, tmp_path, whole):
    translator = wsigen.Translator.from_pretrained(folder / "SYN", device="cpu", dtype="float32")
    pair = translator(folder / "case_HE.tif", region=(X, Y, W, H), mask=folder / "mask.png")
    assert pair.he.level_dimensions == pair.ihc["SYN"].level_dimensions == ((W, H),)
    he = np.asarray(pair.he.read_region((0, 0), 0, (W, H)))[..., :3]
    np.testing.assert_array_equal(he, pixels(folder / "case_HE.tif")[Y : Y + H, X : X + W])
    before = np.asarray(pair.ihc["SYN"].read_region((0, 0), 0, (W, H)))[..., :3]
    pair.save(tmp_path, layout="lossless")
    after = np.asarray(pair.ihc["SYN"].read_region((0, 0), 0, (W, H)))[..., :3]
    np.testing.assert_array_equal(before, after)
    assert pair.ihc["SYN"].dimensions == pair.he.dimensions
    x, y, width, height = HOLE
    assert len(np.unique(after[y - Y : y - Y + height, x - X : x - X + width].reshape(-1, 3), axis=0)) == 1


def test_a_plan_of_a_region(config):
    plan = open_run(replace(config, region=REGION)).describe().splitlines()
    assert plan[0] == f"region      {W} × {H} px, 0.5 µm/px; 100 % of the tiles show tissue"
    nothing = open_run(replace(config, region="0,0,64,64")).describe()
    assert "64 × 64 px, 0.5 µm/px; 0 % of the tiles show tissue" in nothing


def test_what_does_not_fit(config, folder, caplog, tmp_path):
    with pytest.raises(SlideError, match=r"region 0,0,701,900 .* reaches outside the slide, which is 700 x"):
        translate(replace(config, region="0,0,701,900"))
    with pytest.raises(InvalidValueError, match="--region must be X,Y,WIDTH,HEIGHT in px"):
        replace(config, region="0,0,0,9")
    with pytest.raises(InvalidValueError, match="--norm must be dn with --region"):
        replace(config, region=REGION, norm="tin")
    with pytest.raises(InvalidValueError, match="--mask must be given with --mask-class"):
        replace(config, mask_class="Tumor")
    with pytest.raises(SlideError, match=r"no mask for slide case_HE\.tif; add case_HE.geojson"):
        translate(replace(config, mask=folder / "SYN"))
    assert not config.out.exists()
    corner = np.zeros((90, 70), bool)
    corner[0, 0] = True
    Image.fromarray(corner).save(tmp_path / "corner.png")
    (files,) = translate(replace(config, mask=tmp_path / "corner.png"))
    assert "no tissue inside the mask; all is shown as background" in caplog.text
    assert np.ptp(pixels(files.slide)[10:], axis=(0, 1)).max() == 0
