"""Plots are SVGs without fonts or links that show every set; pictures hold the patches they are given."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import cv2
import numpy as np
import pytest

from tests.evaluation.report.reports import report, row
from tests.evaluation.slides import slide_set, slides, written
from tests.synthetic import he_image
from wsigen.evaluation.copies import Neighbour, SimilarSlides, overview
from wsigen.evaluation.descriptor import WeightFree
from wsigen.evaluation.patches import read_patches
from wsigen.evaluation.report import pictures, plots
from wsigen.evaluation.results import SetReport
from wsigen.evaluation.spots import Reader, Spot, spots

SVG = "{http://www.w3.org/2000/svg}"


def decoded(jpeg: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[..., ::-1].astype(int)


def colours(svg: bytes) -> set[str]:
    return set(re.findall(r"#[0-9a-f]{6}", svg.decode()))


def whole(svg: bytes) -> ET.Element:
    """Parsed; nothing in it is loaded from elsewhere, and text is drawn."""
    root = ET.fromstring(svg)
    assert not list(root.iter(f"{SVG}text"))
    for element in root.iter():
        assert all(v.startswith("#") for k, v in element.attrib.items() if k.endswith("href"))
    return root


@pytest.mark.parametrize(
    "draw",
    [
        lambda r: plots.by_scale(r, ["fid", "kid"]),
        plots.spectrum,
        lambda r: plots.densities(r.curves["densities"], ["good", "bad<i>"], ["Haematoxylin", "Eosin"]),
        lambda r: plots.distributions(r.curves["nearest"], "nearest", "distance", top=1.2),
        lambda r: plots.seam_profiles(r.curves["seam profiles"]),
    ],
)
def test_both_sets_and_the_real_ones_are_drawn(draw):
    small = report(scales=(1.0,))
    found = draw(small)
    whole(found)
    assert {plots.REAL, *plots.COLOURS[:2]} <= colours(found)
    assert plots.COLOURS[2] not in colours(found)
    assert draw(small) == found  # same report, same bytes


def test_more_sets_than_colours_begin_again():
    one = report().sets[0]
    many = report(scales=(1.0,), sets=tuple(replace(one, name=f"s{i}") for i in range(8)))
    assert set(plots.COLOURS) <= colours(plots.by_scale(many, ["fid"]))


def test_values_that_are_missing_leave_gaps():
    rows = (row("fid", 1.0, mpp=0.5), row("fid", None, None, mpp=1.0))
    whole(plots.by_scale(report(sets=(SetReport("x", (), rows),)), ["fid"]))
    assert plots.has((SetReport("x", (), rows),), "fid")
    assert not plots.has((SetReport("x", (), rows[1:]),), "fid")


def test_distances_that_are_infinite_are_left_out():
    whole(plots.distributions({"real": [0.5, np.inf], "x": [np.inf, np.inf]}, "nearest", "distance"))


def test_noise_of_a_profile_does_not_fill_the_plot(monkeypatch):
    limits = []

    def panels(draw, items, **_):
        from matplotlib.figure import Figure

        axes = Figure().subplots()
        draw(axes, items[0])
        limits.append(axes.get_ylim())
        return b""

    monkeypatch.setattr(plots, "panels", panels)
    plots.seam_profiles({"x": {"g": 1 + np.linspace(-0.01, 0.01, 65)}})
    plots.seam_profiles({"x": {"g": np.linspace(1, 9, 65)}})
    assert limits[0] == (0.7, 1.5)
    assert limits[1][1] > 9


def patch(grey: int, side: int = 64) -> np.ndarray:
    return np.full((side, side, 3), grey, np.uint8)


def test_a_row_of_patches_side_by_side():
    image = decoded(pictures.sheet([[patch(level)] for level in (40, 120, 200)]))
    assert image.shape == (64, 3 * 64 + 2 * pictures.GAP, 3)
    for i, grey in enumerate((40, 120, 200)):
        middle = i * (64 + pictures.GAP) + 32
        assert image[32, middle] == pytest.approx([grey] * 3, abs=3)
    assert decoded(pictures.sheet([[patch(9, 600)]])).shape == (pictures.CELL, pictures.CELL, 3)


def test_pairs_above_one_another():
    image = decoded(pictures.sheet([(patch(40), patch(80)), (patch(120), patch(160))]))
    side, gap = 64, pictures.GAP
    assert image.shape == (2 * side + gap, 2 * side + gap, 3)
    for y, x, grey in ((0, 0, 40), (1, 0, 80), (0, 1, 120), (1, 1, 160)):
        assert image[y * (side + gap) + 32, x * (side + gap) + 32] == pytest.approx([grey] * 3, abs=3)


def test_strips_are_of_different_slides(tmp_path):
    found = slide_set("x", slides(tmp_path / "x", range(3), size=192))
    where = spots(found.entries, {e.slide: 5 for e in found.entries}, 1.0, 64)
    seen = read_patches(where, Reader(0), WeightFree(), keep=15)
    shown = decoded(pictures.strip(seen, seed=0, shown=3))
    cells = [shown[:, i * (64 + pictures.GAP) :][:, :64] for i in range(3)]
    nearest = [
        min(seen.samples, key=lambda i, c=cell: np.abs(seen.samples[i].astype(int) - c).mean())
        for cell in cells
    ]
    assert {seen.groups[i] for i in nearest} == {e.group for e in found.entries}
    assert pictures.strip(seen, seed=0) == pictures.strip(seen, seed=0)


@pytest.mark.parametrize("orientation", range(8))
def test_neighbours_are_turned_until_they_match(tmp_path, orientation):
    """A copy of a slide in each orientation: above and below the same is seen."""
    image = he_image(192, 3, mpp=1.0)
    undone = next(
        k for k in range(8) if np.array_equal(pictures.turn(pictures.turn(image, orientation), k), image)
    )
    images = {"real": image, "copy": pictures.turn(image, orientation)}
    copy, real = written(tmp_path, images, levels=1).entries
    spot = Spot(copy, 1.0, 192, 0)
    assert copy.slide == "copy.tif"
    middle = (96.0, 96.0)
    reader = Reader(0)
    reader_at_middle = type("Centred", (), {"__call__": lambda _, s: reader.at(s.entry, middle, 1.0, 192)})()
    reader_at_middle.at = reader.at
    shown = pictures.neighbour_sheet([Neighbour(spot, 0, middle, undone, 0.0)], [real], reader_at_middle)
    above, below = decoded(shown)[:192], decoded(shown)[-192:]
    assert np.abs(above - below).mean() < 3
    whole_slides = decoded(pictures.overview_sheet([SimilarSlides(copy, real, undone, 0.0)]))
    assert np.abs(whole_slides[: pictures.CELL] - whole_slides[-pictures.CELL :]).mean() < 3


def test_whole_slides_keep_their_shape(tmp_path):
    (entry,) = written(tmp_path, {"a": he_image((128, 256), 3, mpp=1.0)}).entries
    assert overview(entry).shape == (128, 256, 3)
    shown = decoded(pictures.overview_sheet([SimilarSlides(entry, entry, 0, 0.0)]))
    assert shown.shape == (2 * pictures.CELL + pictures.GAP, pictures.CELL, 3)
    assert (shown[:60] > 250).all()  # white above a wide slide
    assert shown[64:192].mean() < 240
