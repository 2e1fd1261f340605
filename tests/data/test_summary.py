"""What a user is shown: the table and the contact sheet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from wsigen.data.find import Failure
from wsigen.data.index import SlideEntry, SlideIndex
from wsigen.data.summary import (
    CAPTION,
    OUTLINE,
    SCALES,
    contact_sheet,
    independent_patches,
    summary,
    usable_range,
)
from wsigen.data.survey import build_index


@pytest.fixture(scope="module")
def entry(he_slide: Path) -> SlideEntry:
    return build_index(he_slide, progress=False)[0].entries[0]


@pytest.fixture(scope="module")
def crop(entry: SlideEntry) -> SlideEntry:
    """The same, as if tissue went over its borders."""
    return replace(entry, slide="crop.tif", border_tissue=0.9, group="crop", split="val")


def test_patches_are_counted_by_area(entry, crop):
    area = entry.tissue_um2
    assert independent_patches(entry, 64, 0.25) == 0  # finer than the slide
    assert independent_patches(entry, 64, 0.5) == round(area / 32**2)
    assert independent_patches(entry, 64, 1.0) == round(area / 64**2)
    assert independent_patches(entry, 64, 128.0) == 1  # padded with glass
    assert independent_patches(crop, 64, 128.0) == 0


def test_usable_range(entry, crop):
    assert usable_range(entry, 64) == "0.5-"
    assert usable_range(crop, 64) == "0.5-8"
    assert usable_range(crop, 2048) == "none"
    assert usable_range(replace(entry, finest_mpp=2.0), 64) == "2-"
    assert usable_range(replace(crop, finest_mpp=2.0), 64) == "2-8"


def test_the_table_adds_up(entry, crop):
    other = replace(entry, slide="b/" + "long" * 20 + ".tif")
    text = summary(SlideIndex((entry, other, crop)), [Failure("x.svs", "damaged")], patch_size=64)
    lines = text.splitlines()
    assert lines[1].split()[-len(SCALES) :] == [f"{m:g}" for m in SCALES]
    counts = {line.split()[0]: line.split()[-len(SCALES) :] for line in lines[2:5]}
    assert counts["he.tif"] == [str(independent_patches(entry, 64, m) or "·") for m in SCALES]
    train, val = (
        next(line for line in lines if f"groups {s}" in " ".join(line.split())) for s in ("train", "val")
    )
    assert train.startswith("2 slides, 1 groups")
    assert int(train.split()[-9]) == 2 * independent_patches(entry, 64, 0.5)
    assert val.startswith("1 slides, 1 groups")
    assert lines[-2:] == ["Left out, 1:", "  x.svs: damaged"]
    assert len({len(line) for line in lines[1:7]}) == 1  # columns stand in line
    assert any(line.startswith("…") and line.split()[0].endswith("long.tif") for line in lines)


def test_the_contact_sheet_shows_slides_and_outlines(entry, crop):
    sheet = contact_sheet(SlideIndex((entry, crop, entry)), cell=200)
    assert sheet.shape == (2 * (200 + CAPTION), 2 * 200, 3)
    thumbnail = sheet[4:196, 4:196]
    outline = (thumbnail == OUTLINE).all(axis=2)
    assert 200 < outline.sum() < 3000
    whole = entry.open().read_region(entry.size.region, 0.5)
    want = cv2.resize(whole, (192, 192), interpolation=cv2.INTER_AREA)
    assert np.abs(thumbnail[~outline].astype(int) - want[~outline]).mean() < 3
    assert (sheet[230:, 200:] == 255).all()  # nothing in the fourth cell
    assert (sheet[200:230, :200] < 128).any()  # the name


def test_of_many_slides_some_are_shown(entry):
    sheet = contact_sheet(SlideIndex((entry,) * 230), cell=16, columns=20)
    cells = sheet.reshape(10, 16 + CAPTION, 20, 16, 3)
    assert (cells[:, 4:12, :, 4:12] != 255).any(axis=(1, 3, 4)).all()  # 200 thumbnails
