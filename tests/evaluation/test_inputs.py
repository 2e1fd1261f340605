"""Which slides are compared, and what is said about them before any is read closely."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.evaluation.slides import slides
from tests.synthetic import he_image, write_tiff
from wsigen import __version__
from wsigen.config.evaluate import EvaluateConfig
from wsigen.data.find import Failure
from wsigen.errors import InvalidValueError, OutputError, SlideError
from wsigen.evaluation.inputs import (
    config_dict,
    load_inputs,
    refuse_existing,
    versions,
)
from wsigen.evaluation.spots import Reader, Spot
from wsigen.slide.provenance import beside


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    top = tmp_path_factory.mktemp("inputs")
    for name, seeds in (("real", range(4)), ("ours", range(10, 12)), ("train", range(20, 22))):
        slides(top / name, seeds, size=320)
    return top


def config(folder: Path, **options) -> EvaluateConfig:
    paths = {"real": str(folder / "real"), "generated": str(folder / "ours")}
    return EvaluateConfig(**(paths | {"mpp": "1", "patch": 64, "patches": 32} | options))


def test_sets_are_named_and_their_shares_counted(folder):
    found = load_inputs(config(folder, compare=f"again={folder / 'ours'}", train=str(folder / "train")))
    assert [s.name for s in found.drawn] == ["real", "generated", "again", "train"]
    assert [s.patches for s in found.shares(found.sets[0])] == [{"1": 16}, {"1": 16}]
    assert sum(s.patches["1"] for s in found.shares(found.real)) == 64
    assert found.ihc is None
    assert "generated has 2 slides, fewer than 4: its intervals are those of its patches" in str(
        found.warnings
    )


def test_real_slides_that_are_judged_as_well_are_said(folder):
    found = load_inputs(config(folder, generated=str(folder / "real")))
    assert "4 slides are both in generated and in real" in found.warnings


def test_a_folder_of_pairs_is_judged_by_the_slides_of_one_stain(folder, tmp_path):
    pairs = slides(tmp_path / "pairs", range(30, 33), size=320)
    he, ihc, unknown = sorted(pairs.glob("*.tif"))
    beside(he, ".json").write_text('{"synthetic": true, "seed": 1}', encoding="utf-8")
    beside(ihc, ".json").write_text('{"synthetic": true, "marker": "SYN"}', encoding="utf-8")
    found = load_inputs(config(folder, generated=str(pairs))).sets[0]
    assert [e.slide for e in found.entries] == [he.name, unknown.name]
    assert [str(f) for f in found.failures] == [
        str(Failure(ihc.name, "is SYN IHC, not H&E; give it as --pairs"))
    ]
    brown = load_inputs(config(folder, generated=str(pairs), stain="ihc")).sets[0]
    assert [e.slide for e in brown.entries] == [ihc.name, unknown.name]
    with pytest.raises(SlideError, match="is SYN IHC, not H&E; give it as --pairs"):
        load_inputs(config(folder, generated=str(ihc)))


def test_held_out_slides_must_not_be_trained_on(folder):
    with pytest.raises(SlideError, match="is in train and in real; membership cannot be told"):
        load_inputs(config(folder, train=str(folder / "real")))


def test_scales_that_nobody_has_are_an_error_with_the_reason(folder):
    with pytest.raises(
        InvalidValueError, match=r"nothing can be compared: 0\.25 µm/px is left out: no slide"
    ):
        load_inputs(config(folder, mpp="0.25"))
    found = load_inputs(config(folder, mpp="0.25,1"))
    assert found.warnings[0].endswith("(the finest has 1 µm/px, and nothing is enlarged)")


@pytest.mark.parametrize("name", ["index.html", "report.json"])
def test_existing_reports_are_kept(folder, tmp_path, name):
    refuse_existing(tmp_path)
    (tmp_path / name).write_text("mine")
    with pytest.raises(OutputError, match=f"{name}.*pass --overwrite to replace it"):
        refuse_existing(tmp_path)
    refuse_existing(tmp_path, overwrite=True)


def test_what_made_the_numbers_is_recorded(folder):
    assert versions()["wsigen"] == __version__
    assert {"numpy", "torch", "torch-fidelity", "scikit-image"} < set(versions())
    assert config_dict(config(folder, out=Path("x")))["out"] == "x"
    assert config_dict(config(folder))["seed"] == 0


def test_names_of_ihc_slides_need_no_patches_of_their_own(folder, tmp_path):
    """Twins are loaded beside the sets, and no patch is allotted to them."""
    for name in ("ihc", "real_ihc"):
        slides(tmp_path / name, range(30, 32), size=320)
    options = {"pairs": str(tmp_path / "ihc"), "real_pairs": str(tmp_path / "real_ihc")}
    found = load_inputs(config(folder, **options))
    assert found.ihc is not None
    assert found.real_ihc is not None
    assert (found.ihc.name, found.real_ihc.name) == ("IHC", "real IHC")
    assert len(found.ihc.entries) == 2
    assert set(found.plans[0].allotted) == {"generated", "real"}


def test_a_table_names_cases_of_real_slides_and_not_of_generated_ones(folder, tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("slide,group\n" + "".join(f"s{i}.tif,case{i // 2}\n" for i in range(4)))
    found = load_inputs(config(folder, table=table))
    assert {e.group for e in found.real.entries} == {"case0", "case1"}
    assert {e.group for e in found.sets[0].entries} == {"s10.tif", "s11.tif"}
    assert "2 real slides (or cases) only" in found.plans[0].warnings[0]


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("generated", "pass --generated-mpp, such as --generated-mpp 0.5, or write it into the file"),
        ("real", "add a row to a table .*--table, or if all such files have the same, pass --real-mpp"),
    ],
)
def test_the_option_is_advised_that_would_do(folder, tmp_path, name, fix):
    write_tiff(tmp_path / "x.tif", he_image(256), None)
    with pytest.raises(SlideError, match=rf"x\.tif: µm/px is not in its metadata; {fix}"):
        load_inputs(config(folder, **{name: str(tmp_path)}))


def patches(folder: Path, seeds: range) -> Path:
    """PNG patches of 96 px, all tissue, as other programs write them."""
    folder.mkdir()
    for seed in seeds:
        Image.fromarray(he_image(400, seed, mpp=1.0)[150:246, 150:246]).save(folder / f"{seed}.png")
    return folder


def test_png_patches_of_others_are_compared_as_they_are(folder, tmp_path):
    """Each gives its one patch, pixel by pixel; a slide that states its µm/px keeps it."""
    ours, theirs = patches(tmp_path / "ours", range(40, 60)), patches(tmp_path / "theirs", range(60, 94))
    write_tiff(theirs / "own.tif", he_image(400, 1, mpp=0.5), 0.5, levels=1)
    sizes = {"patch": 96, "patches": 16, "generated_mpp": 1.0, "real_mpp": 1.0}
    found = load_inputs(config(folder, generated=str(ours), real=str(theirs), **sizes))
    (generated,) = found.sets
    assert [(e.mpp, e.height, e.width) for e in generated.entries] == [(1.0, 96, 96)] * 20
    assert {e.slide: e.mpp for e in found.real.entries}["own.tif"] == 0.5
    assert [s.patches for s in found.shares(generated)].count({"1": 1}) == 16
    assert sum(s.patches.get("1", 0) for s in found.shares(found.real)) == 32
    one = generated.entries[3]
    image = Reader(seed=0)(Spot(one, 1.0, 96, 0))
    np.testing.assert_array_equal(image, np.asarray(Image.open(one.path)))


def test_the_table_comes_before_the_option(folder, tmp_path):
    real = patches(tmp_path / "real", range(12))
    (tmp_path / "t.csv").write_text("slide,mpp\n1.png,2\n")
    found = load_inputs(config(folder, real=str(real), real_mpp=1.0, table=tmp_path / "t.csv", patches=16))
    assert {e.slide: e.mpp for e in found.real.entries} == {f"{i}.png": 1.0 + (i == 1) for i in range(12)}


@pytest.mark.parametrize("name", ["generated_mpp", "real_mpp"])
def test_a_scale_that_cannot_be(folder, name):
    flag = name.replace("_", "-")
    with pytest.raises(InvalidValueError, match=rf"--{flag} must be a number in \(0, 1000\] µm/px, got 0\.0"):
        config(folder, **{name: 0.0})
