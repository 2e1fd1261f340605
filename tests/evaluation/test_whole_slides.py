"""Seams, scales and overviews of slides that were made with known ones."""

from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import tifffile

from tests.evaluation.slides import slide_set, slides
from tests.synthetic import he_image, reduce_by, write_tiff
from wsigen.evaluation.copies import overview, overview_rows
from wsigen.evaluation.report.pictures import turn
from wsigen.evaluation.scales import MADE_FROM, origin, scale_rows
from wsigen.evaluation.seams import score_slide, seam_rows
from wsigen.evaluation.windows import SeamGrid, grids_by_name, own_grid

SIDE, PITCH = 640, 64


def stepped(image: np.ndarray, pitch: int, step: float, phase: int = 0) -> np.ndarray:
    """Every second row and column of tiles is brighter by ``step`` grey levels."""
    rows, cols = ((np.arange(side) - phase) // pitch % 2 for side in image.shape[:2])
    stripes = (rows[:, None] + cols[None])[..., None]
    return np.clip(image + step * stripes, 0, 255).astype(np.uint8)


def write_set(folder, seeds, *, step=0.0, pitch=256, phase=0, facts=None):
    folder.mkdir()
    for seed in seeds:
        image = stepped(he_image(SIDE, seed, mpp=1.0), pitch, step, phase)
        write_tiff(folder / f"s{seed}_HE.tif", image, 1.0, compression="zstd", levels=3)
        if facts:
            (folder / f"s{seed}_HE.json").write_text(json.dumps(facts))
    return slide_set(folder.name, folder)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("whole") / "real", range(5))


def row(rows, key, label=""):
    return next(r for r in rows if (r.key, r.label) == (key, label))


def test_slides_without_seams_are_as_the_real_ones(real, tmp_path):
    rows, profiles = seam_rows(write_set(tmp_path / "x", range(20, 24)), real, seed=0)
    tiles = row(rows, "seam", "256 px tiles")
    assert tiles.value.value == pytest.approx(1, abs=0.15)
    assert tiles.excess < 1.5
    assert tiles.samples == "4 and 5 slides"
    assert set(profiles) == {"256 px tiles", "256 px tiles (real)"}
    assert len(profiles["256 px tiles"]) == 65


def test_planted_tiles_are_seen_and_in_proportion(real, tmp_path):
    ratios = []
    for step in (15, 30):
        judged = write_set(tmp_path / f"x{step}", range(20, 26), step=-step)
        rows, profiles = seam_rows(judged, real, seed=0)
        tiles = row(rows, "seam", "256 px tiles")
        assert tiles.excess > 1
        ratios.append(tiles.value.value)
        assert np.argmax(profiles["256 px tiles"]) == 32  # in the middle
    assert ratios[0] > 1.5
    assert ratios[1] > 1.4 * ratios[0]


@pytest.mark.parametrize(("step", "far"), [(0, False), (-24, True)])
def test_seams_nobody_knows_are_sought(real, tmp_path, step, far):
    facts = {"size": SIDE, "k": 2, "stages": 3}  # patches of 80 px
    judged = write_set(tmp_path / "x", range(20, 26), step=step, pitch=80, phase=37, facts=facts)
    strongest = row(seam_rows(judged, real, seed=0)[0], "strongest_line", "80 px patches")
    assert (strongest.excess > 3) is far
    assert "the strongest line of all counts" in strongest.warnings[0]


def test_seams_that_are_named_are_looked_at(real, tmp_path):
    joints = [{"name": "patches", "pitch": PITCH, "rows": [37], "cols": [37]}]
    there = write_set(
        tmp_path / "there", range(20, 22), step=-24, pitch=PITCH, phase=37, facts={"joints": joints}
    )
    value = score_slide(there.entries[0], SeamGrid("patches", PITCH, (37,), (37,)), 1.0, 0)
    elsewhere = score_slide(there.entries[0], SeamGrid("patches", PITCH, (5,), (5,)), 1.0, 0)
    for found, other, strong in zip(value, elsewhere, (2, 1.8), strict=True):
        assert found.ratio > strong > 1.3 > other.ratio
    rows, _ = seam_rows(there, real, seed=0)
    assert row(rows, "seam", "patches").value.value > 2
    assert row(rows, "edge", "patches").excess > 1


def test_seams_lie_elsewhere_on_each_slide_and_are_one_grid(real, tmp_path):
    (tmp_path / "x").mkdir()
    for seed, phase in ((20, 11), (21, 42)):
        image = stepped(he_image(SIDE, seed, mpp=1.0), PITCH, -24, phase)
        write_tiff(tmp_path / "x" / f"s{seed}_HE.tif", image, 1.0, compression="zstd")
        joints = [{"name": "patches", "pitch": PITCH, "rows": [phase], "cols": [phase]}]
        (tmp_path / "x" / f"s{seed}_HE.json").write_text(json.dumps({"joints": joints}))
    judged = slide_set("x", tmp_path / "x")
    grids = grids_by_name(judged.entries)
    assert {(g.name, g.rows): len(e) for g, e in grids.items()} == {
        ("256 px tiles", (0,)): 2,
        ("patches", (0,)): 2,
    }
    assert [own_grid(e, SeamGrid("patches", PITCH)).rows for e in judged.entries] == [(11,), (42,)]
    found = row(seam_rows(judged, real, seed=0)[0], "seam", "patches")
    assert found.samples == "2 and 5 slides"
    assert found.value.value > 2


def test_a_faint_hard_edge_is_seen_by_the_jump_alone(real, tmp_path):
    """One dark line at each joint: strips of 8 px hardly change, the step to the next pixel does."""
    (tmp_path / "x").mkdir()
    for seed in (20, 21):
        image = he_image(SIDE, seed, mpp=1.0)
        image[::256] = image[::256] * 0.8
        image[:, ::256] = image[:, ::256] * 0.8
        write_tiff(tmp_path / "x" / f"s{seed}.tif", image, 1.0, compression="zstd")
    rows, _ = seam_rows(slide_set("x", tmp_path / "x"), real, seed=0)
    edge, soft = (row(rows, key, "256 px tiles") for key in ("edge", "seam"))
    assert edge.value.value > 2 * soft.value.value
    assert edge.excess > 1 > soft.excess


def test_real_slides_are_looked_at_where_ours_are_joined(tmp_path):
    """Else the edges of JPEG at multiples of 8 px would be the floor of joints that lie elsewhere."""
    (tmp_path / "real").mkdir()
    for seed in range(4):
        image = he_image(SIDE, seed, mpp=1.0)
        image = cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], 1)
        write_tiff(tmp_path / "real" / f"s{seed}.tif", image, 1.0, compression="zstd")
    blocky, floors = slide_set("real", tmp_path / "real"), []
    for phase in (0, 11):
        joints = [{"name": "patches", "pitch": PITCH, "rows": [phase], "cols": [phase]}]
        judged = write_set(tmp_path / f"x{phase}", range(20, 22), facts={"joints": joints})
        floors.append(row(seam_rows(judged, blocky, seed=0)[0], "edge", "patches").floor.value)
    assert floors[0] > 1.3 > 1.1 > floors[1]


def test_small_slides_have_no_score(real, tmp_path):
    small = slide_set("x", slides(tmp_path / "x", range(2), size=256))
    rows, profiles = seam_rows(small, real, seed=0)
    tiles = row(rows, "seam", "256 px tiles")
    assert tiles.value is None
    assert "2 slides are too small for seams 256 px apart" in tiles.warnings
    assert profiles == {}, "nor is that of the real slides shown"


def test_real_slides_that_are_too_coarse_are_no_floor(real, tmp_path):
    write_tiff(tmp_path / "a.tif", he_image(SIDE, 3, mpp=0.25), 0.25, compression="zstd")
    rows, _ = seam_rows(slide_set("x", tmp_path), real, seed=0)
    tiles = row(rows, "seam", "256 px tiles")
    assert tiles.floor is None
    assert "no real slide is fine and large enough" in tiles.warnings[0]


def test_blocks_of_jpeg(real, tmp_path):
    for seed in (30, 31):
        image = he_image(SIDE, seed, mpp=1.0)
        image = cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], 1)
        write_tiff(tmp_path / f"s{seed}.tif", image, 1.0, compression="zstd")
    jpeg = row(seam_rows(slide_set("x", tmp_path), real, seed=0)[0], "jpeg")
    assert jpeg.floor.value == pytest.approx(1, abs=0.1)
    assert jpeg.value.value > 1.3


def test_a_pyramid_agrees_with_itself(real):
    found = {r.key: r for r in scale_rows(real, real, seed=0)}
    assert found["scale_correlation"].value.value > 0.99
    assert found["scale_detail"].value.value == pytest.approx(1, abs=0.05)
    assert all(r.excess == 0 for r in found.values())


def test_an_overview_of_something_else_does_not(real, tmp_path):
    fine, other = he_image(SIDE, 3, mpp=1.0), reduce_by(he_image(SIDE, 4, mpp=1.0), 4)
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        for i, image in enumerate((fine, other)):
            tiff.write(
                image,
                tile=(128, 128),
                photometric="rgb",
                subfiletype=i,
                resolution=(1e4 / 4**i, 1e4 / 4**i),
                resolutionunit="CENTIMETER",
            )
    found = {r.key: r for r in scale_rows(slide_set("x", tmp_path), real, seed=0)}
    assert found["scale_correlation"].value.value < 0.7
    assert found["scale_psnr"].excess > 3


@pytest.mark.parametrize(("shift", "blur"), [(0, 0), (0, 2), (40, 0)])
def test_the_overview_that_a_slide_was_made_from(real, tmp_path, shift, blur):
    for seed in (3, 4):
        fine = he_image(SIDE, seed, mpp=1.0)
        overview = np.roll(reduce_by(fine, 8), shift, axis=1)
        overview = cv2.GaussianBlur(overview, (0, 0), blur) if blur else overview
        write_tiff(tmp_path / f"s{seed}_HE.tif", fine, 1.0, compression="zstd", levels=1)
        cv2.imwrite(str(tmp_path / f"s{seed}_HE.png"), overview[..., ::-1])
        (tmp_path / f"s{seed}_HE.json").write_text(json.dumps({"synthetic": True}))
    rows = scale_rows(slide_set("x", tmp_path), real, seed=0)
    found = {r.key: r for r in rows if r.label == MADE_FROM}
    if shift:
        assert found["scale_correlation"].value.value < 0.7
        assert found["scale_psnr"].excess > 3
    elif blur:
        assert found["scale_detail"].value.value > 1.5  # the slide has more detail than it was told
    else:
        assert found["scale_correlation"].value.value > 0.999
        assert found["scale_psnr"].value.value > 45
        assert found["scale_detail"].value.value == pytest.approx(1, abs=0.01)
    assert found["scale_psnr"].samples == "2 and 5 slides or cases"


def test_a_picture_beside_a_slide_that_is_not_synthetic_says_nothing(tmp_path):
    write_tiff(tmp_path / "a_HE.tif", he_image(SIDE, 3, mpp=1.0), 1.0)
    cv2.imwrite(str(tmp_path / "a_HE.png"), np.zeros((64, 64, 3), np.uint8))
    (judged,) = slide_set("x", tmp_path).entries
    assert origin(judged) is None
    (tmp_path / "a_HE.json").write_text(json.dumps({"synthetic": True}))
    assert origin(judged).shape == (64, 64, 3)


def test_a_slide_of_one_level_has_nothing_to_compare(real, tmp_path):
    write_tiff(tmp_path / "a.tif", he_image(SIDE, 3, mpp=1.0), 1.0, levels=1)
    found = scale_rows(slide_set("x", tmp_path), real, seed=0)
    assert all(r.value is None for r in found)
    assert "not measured: the slides store no overview" in found[0].warnings[0]


def test_copied_overviews(real, tmp_path):
    many = slide_set("real", slides(tmp_path / "many", range(12), size=192, mpp=4.0))
    others = slide_set("others", slides(tmp_path / "others", range(50, 53), size=192, mpp=4.0))
    (tmp_path / "copies").mkdir()
    for seed in (1, 2):
        turned = np.ascontiguousarray(np.rot90(he_image(192, seed, mpp=4.0)))
        write_tiff(tmp_path / "copies" / f"c{seed}.tif", turned, 4.0)
    for judged, copied in ((slide_set("copies", tmp_path / "copies"), 100), (others, 0)):
        (found,), similar = overview_rows(judged, many, None)
        assert found.value.value == copied
        assert found.floor.value == 0
        assert [a.distance for a in similar] == sorted(a.distance for a in similar)
        if copied:
            pairs = {(a.ours.slide, a.theirs.slide) for a in similar}
            assert pairs == {("c1.tif", "s1.tif"), ("c2.tif", "s2.tif")}
            assert all(turn(np.zeros((3, 5, 3)), a.orientation).shape == (5, 3, 3) for a in similar)
    (found,), _ = overview_rows(others, real, None)
    assert found.value is None
    assert "needs at least 10 real patches, got 5" in found.warnings[0]


def test_an_overview_is_never_enlarged(real):
    assert overview(real.entries[0]).shape == (256, 256, 3)
    assert overview(real.entries[0], 5000).shape == (SIDE, SIDE, 3)


def test_slides_that_are_specks_as_a_whole_have_no_overview_to_compare(real, tmp_path):
    specks = replace(real, entries=tuple(replace(e, height=20) for e in real.entries))
    rows, similar = overview_rows(specks, real, None)
    assert rows[0].value is None
    assert "not measured: slides are smaller than 32 px as a whole" in rows[0].warnings[0]
    assert similar == []


def test_unrelated_overviews_are_those_of_held_out_slides_where_training_slides_are_known(tmp_path):
    """Held-out slides may share a case name with training slides; they are compared with all of them."""
    train = slide_set("train", slides(tmp_path / "train", range(12), size=192, mpp=4.0))
    held = slide_set("real", slides(tmp_path / "held", range(20, 32), size=192, mpp=4.0))
    (copied,), similar = overview_rows(train, held, train)
    assert copied.value.value == 100
    assert copied.samples == "12 slides, 12 real ones"
    assert all(a.ours.slide == a.theirs.slide and a.distance < 0.02 for a in similar)
    (honest,), _ = overview_rows(held, held, train)
    assert honest.value.value == 0
