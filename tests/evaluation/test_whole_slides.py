"""Seams, scales and overviews of slides that were made with known ones."""

from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import tifffile

from tests.evaluation.slides import slide_set, slides, written
from tests.synthetic import he_image, reduce_by, write_tiff
from wsigen.evaluation.copies import nearest_slide_rows, overview, overview_rows, whole_slide
from wsigen.evaluation.descriptor import WeightFree
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
    images = {f"s{s}_HE": stepped(he_image(SIDE, s, mpp=1.0), pitch, step, phase) for s in seeds}
    return written(folder, images, levels=3, facts=facts and dict.fromkeys(images, facts))


def blocky(seeds):
    """Slides that were JPEGs of low quality."""
    images = {f"s{seed}": he_image(SIDE, seed, mpp=1.0) for seed in seeds}
    low = [cv2.IMWRITE_JPEG_QUALITY, 30]
    return {name: cv2.imdecode(cv2.imencode(".jpg", i, low)[1], 1) for name, i in images.items()}


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("whole") / "real", range(5))


def joints_at(phase):
    return [{"name": "patches", "pitch": PITCH, "rows": [phase], "cols": [phase]}]


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
    facts = {"joints": joints_at(37)}
    there = write_set(tmp_path / "there", range(20, 22), step=-24, pitch=PITCH, phase=37, facts=facts)
    value = score_slide(there.entries[0], SeamGrid("patches", PITCH, (37,), (37,)), 1.0, 0)
    elsewhere = score_slide(there.entries[0], SeamGrid("patches", PITCH, (5,), (5,)), 1.0, 0)
    for found, other, strong in zip(value, elsewhere, (2, 1.8), strict=True):
        assert found.ratio > strong > 1.3 > other.ratio
    rows, _ = seam_rows(there, real, seed=0)
    assert row(rows, "seam", "patches").value.value > 2
    assert row(rows, "edge", "patches").excess > 1


def test_seams_lie_elsewhere_on_each_slide_and_are_one_grid(real, tmp_path):
    images, facts = {}, {}
    for seed, phase in ((20, 11), (21, 42)):
        images[f"s{seed}_HE"] = stepped(he_image(SIDE, seed, mpp=1.0), PITCH, -24, phase)
        facts[f"s{seed}_HE"] = {"joints": joints_at(phase)}
    judged = written(tmp_path / "x", images, facts=facts)
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
    images = {f"s{seed}": he_image(SIDE, seed, mpp=1.0) for seed in (20, 21)}
    for image in images.values():
        image[::256] = image[::256] * 0.8
        image[:, ::256] = image[:, ::256] * 0.8
    rows, _ = seam_rows(written(tmp_path / "x", images), real, seed=0)
    edge, soft = (row(rows, key, "256 px tiles") for key in ("edge", "seam"))
    assert edge.value.value > 2 * soft.value.value
    assert edge.excess > 1 > soft.excess


def test_real_slides_are_looked_at_where_ours_are_joined(tmp_path):
    """Else the edges of JPEG at multiples of 8 px would be the floor of joints that lie elsewhere."""
    real, floors = written(tmp_path / "real", blocky(range(4))), []
    for phase in (0, 11):
        judged = write_set(tmp_path / f"x{phase}", range(20, 22), facts={"joints": joints_at(phase)})
        floors.append(row(seam_rows(judged, real, seed=0)[0], "edge", "patches").floor.value)
    assert floors[0] > 1.3 > 1.1 > floors[1]


def test_small_slides_have_no_score(real, tmp_path):
    small = slide_set("x", slides(tmp_path / "x", range(2), size=256))
    rows, profiles = seam_rows(small, real, seed=0)
    tiles = row(rows, "seam", "256 px tiles")
    assert tiles.value is None
    assert "2 slides are too small for seams 256 px apart" in tiles.warnings
    assert profiles == {}, "nor is that of the real slides shown"


def test_real_slides_that_are_too_coarse_are_no_floor(real, tmp_path):
    fine = written(tmp_path, {"a": he_image(SIDE, 3, mpp=0.25)}, 0.25)
    rows, _ = seam_rows(fine, real, seed=0)
    tiles = row(rows, "seam", "256 px tiles")
    assert tiles.floor is None
    assert "no real slide is fine and large enough" in tiles.warnings[0]


def test_blocks_of_jpeg(real, tmp_path):
    jpeg = row(seam_rows(written(tmp_path, blocky((30, 31))), real, seed=0)[0], "jpeg")
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
    found = scale_rows(written(tmp_path, {"a": he_image(SIDE, 3, mpp=1.0)}, levels=1), real, seed=0)
    assert all(r.value is None for r in found)
    assert "not measured: the slides store no overview" in found[0].warnings[0]


def test_copied_overviews(real, tmp_path):
    many = slide_set("real", slides(tmp_path / "many", range(12), size=192, mpp=4.0))
    others = slide_set("others", slides(tmp_path / "others", range(50, 53), size=192, mpp=4.0))
    images = {f"c{seed}": np.rot90(he_image(192, seed, mpp=4.0)).copy() for seed in (1, 2)}
    copies = written(tmp_path / "copies", images, 4.0, compression="jpeg")
    for judged, copied in ((copies, 100), (others, 0)):
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


def test_nearest_slides_by_features(real, tmp_path):
    (tmp_path / "copies").mkdir()
    for seed in (1, 3):
        image = he_image(SIDE, seed, mpp=1.0)
        write_tiff(tmp_path / "copies" / f"c{seed}.tif", image, 1.0, compression="zstd")
    copies = slide_set("copies", tmp_path / "copies")
    (found,), similar = nearest_slide_rows(copies, real, None, WeightFree())
    assert {(a.ours.slide, a.theirs.slide, a.orientation) for a in similar} == {
        ("c1.tif", "s1_HE.tif", 0),
        ("c3.tif", "s3_HE.tif", 0),
    }
    assert similar[0].distance <= similar[1].distance
    assert found.value.value == pytest.approx(np.mean([a.distance for a in similar]), abs=1e-6)
    assert found.value.value < 1e-3 < 0.1 < found.floor.value
    assert (found.samples, found.cases) == ("2 slides, 5 real ones", 5)
    (trained,), _ = nearest_slide_rows(real, real, copies, WeightFree())
    assert trained.value == trained.floor  # the same slides, beside those that were trained on
    assert trained.samples == "5 slides, 2 real ones"
    alone = replace(real, entries=real.entries[:1])
    (none,), similar = nearest_slide_rows(copies, alone, None, WeightFree())
    assert none.value is None
    assert "fewer than two real slides" in none.warnings[0]
    assert similar == []


def test_a_whole_slide_lies_in_the_middle_of_its_background(tmp_path):
    image = he_image((128, 256), 3, mpp=1.0)
    write_tiff(tmp_path / "a.tif", image, 1.0, compression="zstd")
    (entry,) = slide_set("x", tmp_path).entries
    picture = whole_slide(entry)
    assert picture.shape == (512, 512, 3)
    assert np.array_equal(picture[192:320, 128:384], image)
    assert (picture[:192] == entry.background).all()
    assert whole_slide(entry, 128).shape == (128, 128, 3)
    assert (whole_slide(entry, 128)[:32] == entry.background).all()  # reduced by half, in the middle rows


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
