"""Twins: recognised by name, compared place by place, their DAB as much as was painted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.evaluation.slides import entry, written
from tests.synthetic import he_image
from wsigen.errors import InvalidValueError
from wsigen.evaluation import pairs
from wsigen.evaluation.pairs import displacement, domain_rows, pair_rows, pair_up
from wsigen.evaluation.seam_classifier import Training, visibility_rows
from wsigen.evaluation.sets import SlideSet
from wsigen.evaluation.spots import Reader
from wsigen.slide.stains import DAB, HAEMATOXYLIN, stain_densities

SIDE = 448
TRAINING = Training(15)


def painted(he: np.ndarray, dab: float, shift: int = 0) -> np.ndarray:
    """IHC with the haematoxylin of an H&E image, and DAB where there is much of it."""
    nuclei = np.roll(np.clip(stain_densities(he, stains="h-e")[..., 0], 0, None), shift, axis=(0, 1))
    vectors = [np.asarray(v) / np.linalg.norm(v) for v in (HAEMATOXYLIN, DAB)]
    density = nuclei[..., None] * vectors[0] + dab * (nuclei > 0.5)[..., None] * vectors[1]
    return np.clip(255 * 10**-density, 0, 255).round().astype(np.uint8)


def write(folder: Path, seeds: range, ending: str, dab: float | None = None, shift: int = 0) -> SlideSet:
    he = {seed: he_image(SIDE, seed, mpp=1.0) for seed in seeds}
    images = he if dab is None else {seed: painted(image, dab, shift) for seed, image in he.items()}
    return written(folder, {f"s{seed}_{ending}.ome": image for seed, image in images.items()})


@pytest.fixture(scope="module")
def he(tmp_path_factory):
    return write(tmp_path_factory.mktemp("he") / "he", range(4), "HE")


@pytest.fixture(scope="module")
def ihc(tmp_path_factory):
    return write(tmp_path_factory.mktemp("ihc") / "ihc", range(4), "IHC-SYN", 0.4)


def rows_of(he, ihc, real=None):
    found = pair_rows(he, ihc, real, mpp=1.0, patch=96, reader=Reader(0), seed=0, threads=2)
    return {r.key: r for r in found.rows}, found


def at(name: str):
    return replace(entry(name, "g"), path=Path("/x") / name)


def test_names_pair_up():
    he = SlideSet("he", tuple(at(n) for n in ("a_HE.ome.tif", "b_1_HE.ome.tif", "c_HE.tif")))
    ihc = SlideSet("ihc", tuple(at(n) for n in ("b_1_IHC-KI_67.ome.tif", "a_SYN.ome.tif", "z_IHC-SYN.tif")))
    found, warnings = pair_up(he, ihc)
    assert [(t.he.slide, t.ihc.slide) for t in found] == [
        ("b_1_HE.ome.tif", "b_1_IHC-KI_67.ome.tif"),
        ("a_HE.ome.tif", "a_SYN.ome.tif"),
    ]
    assert warnings == ["1 slides of --pairs have no H&E slide of their name"]


def test_slides_that_do_not_fit_are_errors():
    he = SlideSet("he", (at("a_HE.tif"),))
    with pytest.raises(InvalidValueError, match="none of the 1 slides of --pairs belongs to one"):
        pair_up(he, SlideSet("ihc", (at("b_IHC-SYN.tif"),)))
    larger = replace(at("a_IHC-SYN.tif"), height=1200)
    with pytest.raises(InvalidValueError, match=r"a_IHC-SYN\.tif does not belong to a_HE\.tif: they"):
        pair_up(he, SlideSet("ihc", (larger,)))


def test_nuclei_of_true_pairs_are_where_they_were(he, ihc):
    rows, found = rows_of(he, ihc)
    assert rows["twin_correlation"].value.value > 0.9
    assert abs(rows["twin_chance"].value.value) < 0.2
    assert rows["twin_shift"].value.value < 0.3
    assert len(found.shown) == 6
    assert {"dab_mean", "dab_p90", "dab_positive"} < set(rows)
    assert rows["dab_mean"].floor is None
    assert not {"dab_kl", "niqe", "sobel"} & set(rows)  # nothing to compare with


def test_each_place_is_compared_once_with_each_ihc_slide(he, ihc, monkeypatch):
    monkeypatch.setattr(pairs, "MOST", 8)
    rows, _ = rows_of(he, replace(ihc, entries=(*ihc.entries, *ihc.entries)))
    assert rows["twin_correlation"].samples == "16 places"


def test_a_shifted_slide_is_measured(he, tmp_path):
    rows, _ = rows_of(he, write(tmp_path / "x", range(4), "IHC-SYN", 0.4, shift=6))
    assert rows["twin_shift"].value.value == pytest.approx(6 * np.sqrt(2), abs=0.7)
    assert rows["twin_correlation"].value.value < 0.6


def test_dab_beside_real_slides_of_the_stain(he, ihc, tmp_path):
    real = write(tmp_path / "real", range(30, 36), "SYN", 0.4)
    rows, found = rows_of(he, ihc, real)
    assert found.warnings == []
    for key in ("dab_mean", "dab_p90", "dab_positive", "dab_kl", "dab_hue"):
        assert rows[key].excess < 2, (key, rows[key].excess)
    for key in (
        "haematoxylin_mean",
        "haematoxylin_p90",
        "haematoxylin_kl",
        "sobel",
        "piqe",
        "nuclei_density",
    ):
        assert rows[key].label == "IHC"
        assert rows[key].excess < 2, (key, rows[key].excess)
    pale, _ = rows_of(he, write(tmp_path / "pale", range(4), "IHC-SYN", 0.05), real)
    for key in ("dab_mean", "dab_positive", "dab_kl"):
        assert pale[key].excess > 2, (key, pale[key].excess)
    assert pale["dab_positive"].value.value < 1 < rows["dab_positive"].value.value


def test_quality_and_nuclei_of_twins_beside_real_ihc(he, tmp_path):
    """Blurred pairs with half of the haematoxylin."""
    real = write(tmp_path / "real", range(30, 36), "SYN", 0.4)
    faint = {}
    for seed in range(4):
        blurred = cv2.GaussianBlur(painted(he_image(SIDE, seed, mpp=1.0), 0.4), (0, 0), 2)
        faint[f"s{seed}_IHC-SYN.ome"] = (255 * np.sqrt(blurred / 255)).astype(np.uint8)
    rows, _ = rows_of(he, written(tmp_path / "x", faint), real)
    for key in ("sobel", "haematoxylin_mean", "haematoxylin_p90", "haematoxylin_kl", "dab_mean"):
        assert rows[key].excess > 2, (key, rows[key].excess)
    assert rows["haematoxylin_mean"].value.value == pytest.approx(
        rows["haematoxylin_mean"].floor.value / 2, rel=0.2
    )
    assert rows["sobel"].value.value < 0.7 * rows["sobel"].floor.value
    assert rows["sobel"].name == "Sobel gradient, IHC, 1 µm/px"


def test_displacement_in_pixels():
    image = he_image(SIDE, 2, mpp=1.0)[100:356, 100:356]
    assert displacement(image, painted(image, 0.3)) < 0.1
    assert displacement(image, painted(image, 0.3, shift=5)) == pytest.approx(5 * np.sqrt(2), abs=0.3)


def test_small_networks_see_planted_seams(tmp_path):
    images = {f"s{seed}": he_image(512, seed, mpp=1.0) for seed in range(4)}
    whole = written(tmp_path / "whole", images)
    for image in images.values():
        image[254:258], image[:, 254:258] = 60, 60
    joined = written(tmp_path / "joined", images)
    (found,) = visibility_rows(joined, whole, TRAINING, mark="IHC: ")
    assert found.label == "IHC: 256 px tiles"
    assert found.value.value > 0.9
    assert found.floor.value < found.value.value


def test_networks_look_at_the_seams_of_each_slide(tmp_path):
    """Lines at other places on every slide, which only its provenance knows; real slides have none."""
    images = {f"s{seed}_HE": he_image(512, seed, mpp=1.0) for seed in range(4)}
    whole, facts = written(tmp_path / "whole", images), {}
    for seed, (name, image) in enumerate(images.items()):
        phase = 20 + 24 * seed
        image[phase::128], image[:, phase::128] = 60, 60
        joints = [{"name": "patches", "pitch": 128, "rows": [phase], "cols": [phase]}]
        facts[name] = {"joints": joints}
    joined = written(tmp_path / "joined", images, facts=facts)
    found = {r.label: r for r in visibility_rows(joined, whole, TRAINING)}
    assert set(found) == {"256 px tiles", "patches"}
    assert found["patches"].value.value > 0.9
    assert found["patches"].floor.value < 0.8


def test_too_few_windows_are_no_ground_for_a_verdict(he):
    few = replace(he, entries=he.entries[:1])
    (found,) = visibility_rows(few, few, TRAINING)
    assert found.value is None
    assert "visible seams need crops of at least 4 regions, got" in found.warnings[0]


def test_domains_are_told_apart_and_twins_pass(he, ihc, tmp_path):
    paired, _ = pair_up(he, ihc)
    images = {f"s{seed}_IHC-SYN": painted(he_image(640, seed, mpp=1.0), 0.4) for seed in (0, 1)}
    large = [replace(t, ihc=e) for t, e in zip(paired, written(tmp_path / "x", images).entries, strict=False)]
    real = write(tmp_path / "real", range(30, 33), "SYN", 0.4)
    difference, passed = domain_rows(large, he, real, Reader(0), TRAINING)
    assert (difference.key, passed.key) == ("domain_difference", "domain_share")
    assert passed.value.value > 0.8
    assert abs(difference.value.value) < 0.2
    assert passed.label == "256 px tiles"
