"""Patches of slides with a mask or a region lie inside it, all the way to the training data."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.synthetic import STROMA, write_tiff
from wsigen.config import AugmentConfig
from wsigen.config.index import IndexConfig
from wsigen.data.index import SlideIndex
from wsigen.data.patches import PatchDataset, PatchKey
from wsigen.data.summary import independent_patches, usable_range, write_index
from wsigen.data.survey import build_index
from wsigen.errors import InvalidValueError, SlideError
from wsigen.evaluation.spots import Reader, Spot
from wsigen.geometry import Region
from wsigen.slide.mask import Roi

SIDE, MPP = 1024, 2.0
INSIDE, OUTSIDE = STROMA, (200, 60, 150)
BOX = (200, 300, 500, 400)  # x, y, width, height


def polygon(x, y, width, height):
    ring = [[x, y], [x + width, y], [x + width, y + height], [x, y + height], [x, y]]
    return json.dumps({"type": "Polygon", "coordinates": [ring]})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Slides all of tissue, of one colour in the box and another one around it; and masks of the box."""
    folder = tmp_path_factory.mktemp("roi")
    (folder / "slides" / "x").mkdir(parents=True)
    (folder / "masks" / "x").mkdir(parents=True)
    image = np.full((SIDE, SIDE, 3), OUTSIDE, np.uint8)
    x, y, width, height = BOX
    image[y : y + height, x : x + width] = INSIDE
    for name in ("a", "x/b"):
        write_tiff(folder / "slides" / f"{name}.tif", image, MPP, compression="zstd", levels=3)
        (folder / "masks" / f"{name}.geojson").write_text(polygon(*BOX))
    return folder


@pytest.fixture(scope="module")
def index(folder):
    return build_index(folder / "slides", roi=Roi(folder / "masks"), progress=False)[0]


def test_tissue_counts_inside_alone(index, folder):
    whole = build_index(folder / "slides", progress=False)[0].entries[0]
    assert [e.slide for e in index.entries] == ["a.tif", "x/b.tif"]
    entry = index.entries[0]
    x, y, width, height = (round(n * MPP / entry.mask_mpp) for n in BOX)
    assert whole.mask.all()
    rows, columns = (np.flatnonzero(entry.mask.any(axis=axis)) for axis in (1, 0))
    # cells on the edge of the box are left out
    assert (rows[0], rows[-1]) == (y + 1, y + height - 2)
    assert (columns[0], columns[-1]) == (x + 1, x + width - 2)
    assert entry.tissue_um2 == pytest.approx((width - 2) * (height - 2) * entry.mask_mpp**2)
    assert independent_patches(whole, 64, MPP) == 256
    assert independent_patches(entry, 64, MPP) == round(entry.tissue_um2 / 128**2) == 47


def test_a_slide_serves_patches_that_fit_inside(index):
    entry = index.entries[0]
    # 100 cells high, without those on the edge, and around the centre of a cell
    assert entry.widest == 97 * entry.mask_mpp == 776
    fits = 776 // 2 - 2
    assert entry.serves(fits, MPP)
    assert not entry.serves(fits + 1, MPP)
    assert usable_range(entry, 98) == f"2-{entry.widest / 100:.3g}"
    with pytest.raises(InvalidValueError, match="no slide can serve 512 px patches"):
        PatchDataset(index, mpp_range=(2, 4)).require(512)


@pytest.mark.parametrize("vary", [AugmentConfig(), AugmentConfig(rotate=1.0, stretch=0.2)])
def test_every_patch_of_training_lies_inside(index, vary):
    data = PatchDataset(index, mpp_range=(2, 8), anywhere_fraction=0.5, vary=vary)
    scales = []
    for number in range(60):
        patch = data[PatchKey(number, 80)]
        assert (patch.image.permute(1, 2, 0).numpy() == INSIDE).all()
        scales.append(patch.mpp)
    assert max(scales) > 6, "up to those that hardly fit"


def test_patches_reach_every_part_of_the_inside(index):
    data, entry = PatchDataset(index, mpp_range=(2, 8)), index.entries[0]
    rng = np.random.default_rng(0)
    seen = np.zeros((SIDE, SIDE), bool)
    slide = entry.open()

    class Seen:
        def read_patch(self, centre, mpp, size, background):
            y, x = (round(c / mpp - size / 2) for c in centre)
            seen[y : y + size, x : x + size] = True
            return slide.read_patch(centre, mpp, size, background=background)

    data._slides[entry.slide] = Seen()
    for _ in range(400):
        data.cut(entry, MPP, 64, rng)
    x, y, width, height = BOX
    assert seen[y : y + height, x : x + width].mean() > 0.9
    assert seen.sum() == seen[y : y + height, x : x + width].sum()


def test_patches_of_an_evaluation_lie_inside(index):
    reader = Reader(seed=0)
    for number in range(20):
        assert (reader(Spot(index.entries[1], 4.0, 100, number)) == INSIDE).all()


def test_a_region_limits_a_mask(folder):
    index, _ = build_index(
        folder / "slides" / "a.tif",
        roi=Roi(folder / "masks", None, Region(300, 200, 100, 100)),
        progress=False,
    )
    entry = index.entries[0]
    assert entry.mask.sum() == (100 * MPP / entry.mask_mpp - 2) ** 2 == 23**2


def test_an_index_keeps_it(index, tmp_path):
    index.save(tmp_path / "i.parquet")
    loaded = SlideIndex.load(tmp_path / "i.parquet")
    assert loaded == index
    assert loaded.entries[0].widest == index.entries[0].widest


def test_the_command_leaves_out_slides_without_a_mask(folder, tmp_path, caplog):
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "a.geojson").write_text(polygon(*BOX))
    config = IndexConfig(slides=folder / "slides", out=tmp_path / "i.parquet", mask=tmp_path / "masks")
    assert [e.slide for e in write_index(config).entries] == ["a.tif"]
    assert f"left out x/b.tif: {tmp_path / 'masks'}: no mask for slide x/b.tif; add b.geojson" in caplog.text
    config = replace(config, mask=tmp_path / "masks" / "a.geojson")
    with pytest.raises(InvalidValueError, match="--mask must be a folder with a mask named like each of 2"):
        write_index(replace(config, overwrite=True))
    alone = replace(config, slides=folder / "slides" / "x" / "b.tif", overwrite=True)
    assert len(write_index(alone).entries) == 1
    with pytest.raises(SlideError, match=r"region 0,0,2000,2000 .* reaches outside the slide"):
        write_index(replace(alone, region="0,0,2000,2000"))
    with pytest.raises(SlideError, match="no tissue inside its mask or region"):
        write_index(replace(alone, region="0,0,100,100"))
    for wrong, says in (
        ({"region": "1,2"}, "--region must be"),
        ({"mask": None, "mask_class": "T"}, "--mask m"),
    ):
        with pytest.raises(InvalidValueError, match=says):
            replace(alone, **wrong)
