"""An evaluation as a whole: threads, seeds, what is left out, twins, IHC, and held-out slides."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.evaluation.slides import slides, written
from tests.evaluation.test_pairs import painted
from tests.synthetic import he_image
from wsigen.config.evaluate import EvaluateConfig
from wsigen.evaluation.results import Report, Result
from wsigen.evaluation.run import measure

SIDE = 384


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    top = tmp_path_factory.mktemp("run")
    for name, seeds in (("real", range(5)), ("ours", range(20, 24)), ("train", range(40, 44))):
        slides(top / name, seeds, size=SIDE)
    return top


def config(folder: Path, **options) -> EvaluateConfig:
    paths = {"real": str(folder / "real"), "generated": str(folder / "ours"), "device": "cpu"}
    return EvaluateConfig(**(paths | {"mpp": "1", "patch": 96, "patches": 32} | options))


def measured(folder: Path, **options) -> Report:
    return measure(config(folder, **options), progress=False)


def rows(report: Report, name: str = "generated") -> dict[tuple, Result]:
    (found,) = (s for s in report.sets if s.name == name)
    return {(r.key, r.mpp, r.label): r for r in found.results}


@pytest.fixture(scope="module")
def plain(folder) -> Report:
    return measured(folder, workers=1)


def test_numbers_do_not_depend_on_threads(folder, plain):
    again = measured(folder, workers=3).as_dict()
    first = plain.as_dict()
    for one in (first, again):
        del one["config"]
    assert json.dumps(first) == json.dumps(again)


def test_other_seeds_draw_other_patches_of_the_same_slides(folder, plain):
    other = measured(folder, seed=1)
    assert rows(plain).keys() == rows(other).keys()
    key = ("fid", 1.0, "")
    assert rows(plain)[key].value.value != rows(other)[key].value.value
    assert plain.counts == other.counts


def test_slides_of_the_kind_are_not_accused(plain):
    (worst,) = plain.worst().values()
    assert worst is not None
    assert worst.excess < 3
    found = rows(plain)
    assert found["copies", 1.0, ""].value.value == 0
    assert found["recall", 1.0, ""].excess < 2
    assert found["seam", None, "256 px tiles"].excess < 1.5


def test_rows_are_of_every_section_but_pairs(plain):
    sections = {r.metric.section for r in plain.sets[0].results}
    assert sections == {
        *("fidelity", "diversity", "realism", "spectrum", "phase", "stain", "quality", "nuclei"),
        *("scale", "seams", "privacy"),
    }
    assert set(plain.pictures) == {
        *("patches real 1", "patches generated 1", "neighbours generated 1"),
        *("overviews generated", "nearest slides generated"),
    }
    assert all(picture[:2] == b"\xff\xd8" for picture in plain.pictures.values())


def test_several_scales_are_compared_together_as_well(folder):
    report = measured(folder, mpp="1,2", patch=64)
    found = rows(report)
    assert {m for key, m, _ in found if key == "fid"} == {1.0, 2.0, None}
    assert found["fid", None, ""].samples == f"{sum(report.counts.values())} patches a side"
    assert {m for key, m, _ in found if key == "power"} == {1.0, 2.0}


def test_one_real_slide_has_no_verdict_on_privacy_and_says_so(folder):
    report = measured(folder, real=str(folder / "real" / "s0.tif"), mpp="1,1.2", patch=64)
    assert any("one real slide (or case) only" in w for w in report.warnings)
    assert any("µm/px are not compared together" in w for w in report.warnings)
    copies = rows(report)["copies", 1.0, ""]
    assert copies.value is None
    assert "at least two real slides" in copies.warnings[0]


def test_training_slides_are_the_gallery_and_open_two_more_rows(folder, plain):
    note = rows(plain)["membership", None, ""].warnings[0]
    assert "give the slides that the model learnt from as --train" in note
    copying = measured(folder, generated=str(folder / "train" / "s4*.tif"), train=str(folder / "ours"))
    found = rows(copying)
    assert found["copies", 1.0, ""].value.value == 0
    assert [r.name for r in copying.references] == ["real", "train"]
    same = (folder / "same").absolute()
    if not same.exists():
        slides(same, range(20, 24), size=SIDE)  # the very images of ``ours``, in other files
    found = rows(measured(folder, generated=str(same), train=str(folder / "ours")))
    assert found["copies", 1.0, ""].value.value > 50
    assert found["membership", 1.0, ""].value.value > 0.6
    assert found["overview_copies", None, ""].samples == "4 slides, 4 real ones"


def write_ihc(folder: Path, seeds: range, ending: str) -> None:
    written(folder, {f"s{s}_{ending}.ome": painted(he_image(448, s, mpp=1.0), 0.4) for s in seeds})


def test_ihc_slides_are_measured_beside_real_ihc(folder, tmp_path):
    written(tmp_path / "he", {f"s{seed}_HE.ome": he_image(448, seed, mpp=1.0) for seed in range(20, 23)})
    write_ihc(tmp_path / "ihc", range(20, 23), "IHC-SYN")
    write_ihc(tmp_path / "real", range(60, 64), "SYN")
    report = measured(
        folder,
        generated=str(tmp_path / "he"),
        pairs=str(tmp_path / "ihc"),
        real_pairs=str(tmp_path / "real"),
        joint_classifiers=2,
    )
    found = rows(report)
    assert found["twin_correlation", 1.0, ""].value.value > 0.8
    assert abs(found["twin_chance", 1.0, ""].value.value) < 0.3
    assert found["dab_mean", 1.0, ""].excess < 2
    assert found["sobel", 1.0, "IHC"].floor is not None
    assert found["seam", None, "IHC: 256 px tiles"].value is not None
    assert {label for key, _, label in found if key == "joint_auc"} == {"256 px tiles", "IHC: 256 px tiles"}
    assert found["domain_share", None, "256 px tiles"].value is not None
    assert set(report.curves["seam profiles"]) == {"generated", "IHC"}
    assert report.pictures["pairs"][:2] == b"\xff\xd8"


def test_ihc_slides_are_unmixed_into_haematoxylin_and_dab(folder, tmp_path):
    write_ihc(tmp_path / "ours", range(20, 24), "SYN")
    write_ihc(tmp_path / "real", range(60, 64), "SYN")
    options = {"real": str(tmp_path / "real"), "generated": str(tmp_path / "ours"), "stain": "ihc"}
    found = rows(measured(folder, **options))
    assert ("eosin_mean", 1.0, "") not in found
    brown = found["brown_mean", 1.0, ""]
    assert brown.excess < 2
    assert brown.value.value > 0.01
    assert found["brown_kl", 1.0, ""].excess < 2


def test_sets_are_judged_alike_whatever_stands_beside_them(folder, plain):
    both = measured(folder, compare=f"again={folder / 'ours'}")
    assert rows(both).keys() == rows(plain).keys()
    for key, result in rows(plain).items():
        assert rows(both)[key] == result, key
    again = rows(both, "again")
    for key in (("fid", 1.0, ""), ("sobel", 1.0, ""), ("copies", 1.0, "")):
        assert again[key].value == rows(both)[key].value
    assert again["tiling_largest", None, "against generated"].value.value == 0


def test_damaged_patches_are_left_out_with_a_warning(folder, plain, monkeypatch):
    from wsigen.errors import SlideError
    from wsigen.evaluation.spots import Reader

    read = Reader.at

    def at(self, entry, centre, mpp, size):
        if entry.slide == "s20.tif" and centre[0] < 192:
            raise SlideError(entry.path, "is damaged there")
        return read(self, entry, centre, mpp, size)

    monkeypatch.setattr(Reader, "at", at)
    report = measured(folder)
    said = ("s20.tif: patches that cannot be read, left out: ", "; the first: is damaged there")
    assert any(all(part in w for part in said) for w in report.warnings)
    ours, theirs = (int(rows(r)["fid", 1.0, ""].samples.split()[0]) for r in (report, plain))
    assert 0 < ours < theirs


def test_the_report_keeps_what_its_plots_are_of(plain):
    curves = plain.curves
    assert set(curves) == {"nearest", "densities", "nuclei", "seam profiles"}
    for name in ("real", "generated"):
        np.testing.assert_allclose(np.asarray(curves["densities"][name]).sum(axis=1), 1)
        assert len(curves["nuclei"][name]) > 50
    assert len(curves["nearest"]["generated"]) == plain.counts["1"]
    assert replace(plain, curves={}).as_dict()["curves"] == {}
