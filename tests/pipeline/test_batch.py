"""Many slides in one call: where they are written, what is skipped, and what the table says."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

import wsigen
from tests.stain.models import small_generator
from tests.synthetic import he_image, write_dicom, write_tiff
from wsigen.config import TranslateConfig, TranslateSlidesConfig
from wsigen.errors import InvalidValueError, PathError, SlideError, SnapshotError
from wsigen.pipeline import batch, networks
from wsigen.pipeline.batch import as_text, describe_slides, require_all, slide_configs, translate_slides
from wsigen.pipeline.translate import TranslateRun, translate
from wsigen.slide.read import open_slide
from wsigen.stain.stainer import save_stainer

HEIGHT, WIDTH = 96, 64


@pytest.fixture(scope="module")
def stainer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stainers") / "SYN"
    save_stainer(small_generator(blocks=0, marker="SYN", mpp=0.5), folder)
    return folder


@pytest.fixture
def slides(tmp_path):
    """A slide, and a folder with two slides, one of them in a sub-folder, and a bad one between them."""
    (tmp_path / "he" / "x").mkdir(parents=True)
    for seed, name in enumerate(("A", "he/one_HE", "he/x/two")):
        write_tiff(tmp_path / f"{name}.tif", he_image((HEIGHT, WIDTH), seed=seed), 0.5, levels=1)
    (tmp_path / "he" / "torn.svs").write_text("?")
    return [tmp_path / "A.tif", tmp_path / "he"]


@pytest.fixture
def config(slides, stainer, tmp_path):
    options = {"layout": "lossless", "dtype": "float32", "device": "cpu"}
    return TranslateSlidesConfig(slide=slides, stainer=str(stainer), out=tmp_path / "out", **options)


def written(out: Path):
    return sorted(p.relative_to(out).as_posix() for p in out.rglob("*.tif"))


def pixels(path: Path):
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]


MADE = ["A_IHC-SYN.ome.tif", "one_IHC-SYN.ome.tif", "x/two_IHC-SYN.ome.tif"]


def test_slides_and_folders_are_translated_past_a_bad_one(config, tmp_path, monkeypatch):
    load, loaded = networks.load_stainer, []
    monkeypatch.setattr(networks, "load_stainer", lambda *args: loaded.append(args) or load(*args))
    outcomes = translate_slides(config)
    assert len(loaded) == 1
    assert written(config.out) == MADE
    he = tmp_path / "he"
    found = [(o.slide, o.output, o.status, o.mpp, o.width, o.height) for o in outcomes]
    assert found == [
        (str(tmp_path / "A.tif"), MADE[0], "translated", 0.5, WIDTH, HEIGHT),
        (str(he / "one_HE.tif"), MADE[1], "translated", 0.5, WIDTH, HEIGHT),
        (str(he / "torn.svs"), "", "failed", None, None, None),
        (str(he / "x" / "two.tif"), MADE[2], "translated", 0.5, WIDTH, HEIGHT),
    ]
    assert f"{he / 'torn.svs'}: not a slide" in outcomes[2].error
    assert [bool(o.error) for o in outcomes] == [False, False, True, False]
    with (config.out / "translate.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = ["slide", "output", "status", "seconds", "mpp", "width", "height", "error"]
    assert list(rows[0]) == columns
    assert [(r["slide"], r["status"], r["mpp"], r["width"]) for r in rows] == [
        (o.slide, o.status, str(o.mpp or ""), str(o.width or "")) for o in outcomes
    ]
    assert rows[2]["error"] == outcomes[2].error
    assert all(float(r["seconds"]) >= 0 for r in rows)
    lines = as_text(outcomes).splitlines()
    assert len(lines) == 5
    assert lines[1].split()[:1] == ["translated"]
    assert lines[1].endswith(f"0.5         64 × 96  {tmp_path / 'A.tif'}: {MADE[0]}")
    with pytest.raises(PathError, match=r"translate.csv: 1 of 4 slides failed; the same command tries them"):
        require_all(outcomes, config.out)
    require_all(outcomes[:2], config.out)


def test_each_slide_is_what_it_is_alone(config, tmp_path):
    translate_slides(config)
    alone = config.of(tmp_path / "he" / "x" / "two.tif", tmp_path / "alone")
    assert isinstance(alone, TranslateConfig)
    (files,) = translate(alone)
    assert files.slide.read_bytes() == (config.out / MADE[2]).read_bytes()


def test_again_it_makes_what_is_missing(config, tmp_path):
    translate_slides(config)
    kept = {name: (config.out / name).stat().st_mtime_ns for name in MADE}
    (config.out / MADE[1]).unlink()
    write_tiff(tmp_path / "he" / "torn.svs", he_image((HEIGHT, WIDTH), seed=9), 0.5, levels=1)
    outcomes = translate_slides(config)
    assert [o.status for o in outcomes] == ["exists", "translated", "translated", "exists"]
    assert [o.output for o in outcomes] == [*MADE[:2], "torn_IHC-SYN.ome.tif", MADE[2]]
    for name in (MADE[0], MADE[2]):
        assert (config.out / name).stat().st_mtime_ns == kept[name]
    write_tiff(tmp_path / "A.tif", he_image((HEIGHT, WIDTH), seed=5), 0.5, levels=1)
    other = translate_slides(config)
    assert [o.status for o in other] == ["failed", "exists", "exists", "exists"]
    assert "exists already; pass --overwrite" in other[0].error
    assert translate_slides(replace(config, overwrite=True))[0].status == "translated"


def test_interrupted_it_says_what_is_done_and_goes_on(config, monkeypatch):
    fill = TranslateRun.fill

    def interrupted(self, *args):
        if self.slide.path.name == "one_HE.tif":
            raise KeyboardInterrupt
        fill(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(TranslateRun, "fill", interrupted)
        with pytest.raises(KeyboardInterrupt):
            translate_slides(config)
    with (config.out / "translate.csv").open(encoding="utf-8") as file:
        states = [row["status"] for row in csv.DictReader(file)]
    assert states == ["translated", "interrupted", "not started", "not started"]
    assert written(config.out) == MADE[:1]
    assert [o.status for o in translate_slides(config)] == ["exists", "translated", "failed", "translated"]
    assert written(config.out) == MADE


def test_an_error_of_a_library_costs_one_slide(config, monkeypatch, caplog):
    fill = TranslateRun.fill

    def broken(self, *args):
        if self.slide.path.name == "A.tif":
            raise RuntimeError("no kernel")
        fill(self, *args)

    monkeypatch.setattr(TranslateRun, "fill", broken)
    outcomes = translate_slides(config)
    assert [o.status for o in outcomes] == ["failed", "translated", "failed", "translated"]
    assert outcomes[0].error == "RuntimeError: no kernel"
    assert "Traceback" in caplog.text


def test_two_slides_of_one_output_are_refused_before_any_work(config, slides, tmp_path):
    shutil.copy(tmp_path / "A.tif", tmp_path / "A.tiff")
    with pytest.raises(InvalidValueError, match=r"A\.tif and .*A\.tiff would both be written to .*A_…; ren"):
        translate_slides(replace(config, slide=[*slides, tmp_path / "A.tiff"]))
    (tmp_path / "other").mkdir()
    shutil.copy(tmp_path / "A.tif", tmp_path / "other" / "one_HE.tif")
    with pytest.raises(InvalidValueError, match=r"would both be written to .*one_…"):
        translate_slides(replace(config, slide=[*slides, tmp_path / "other"]))
    assert not config.out.exists()
    twice = slide_configs(replace(config, slide=[*slides, slides[0], slides[1] / "one_HE.tif"]))
    assert list(twice) == ["A.tif", "one_HE.tif", "torn.svs", "x/two.tif"]


def test_what_was_made_in_the_folder_is_not_translated_again(config, tmp_path):
    inside = replace(config, slide=[tmp_path / "he"], out=tmp_path / "he")
    first = translate_slides(inside)
    assert [o.status for o in first] == ["translated", "failed", "translated"]
    assert [o.status for o in translate_slides(inside)] == ["exists", "failed", "exists"]
    for name in ("one_HE.tif", "torn.svs", "x/two.tif"):
        (tmp_path / "he" / name).unlink()
    with pytest.raises(SlideError, match="no slide in this folder but those that wsigen translate made"):
        translate_slides(inside)


def test_mistakes_that_concern_all_slides_stop_it_at_once(config, tmp_path):
    with pytest.raises(SnapshotError, match="XYZ"):
        translate_slides(replace(config, stainer="XYZ"))
    with pytest.raises(InvalidValueError, match="--name must be left out with several slides, got n"):
        replace(config, name="n")
    (tmp_path / "m.png").touch()
    with pytest.raises(InvalidValueError, match="--mask must be a folder with a mask named like each of 4"):
        translate_slides(replace(config, mask=tmp_path / "m.png"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SlideError, match="no slide in this folder"):
        translate_slides(replace(config, slide=[tmp_path / "empty"]))
    assert not config.out.exists()


def test_each_slide_has_its_mask(config, tmp_path):
    masks = tmp_path / "masks"
    (masks / "x").mkdir(parents=True)
    for name, rows in (("A", 24), ("x/two", 48)):
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask[:rows] = True
        Image.fromarray(mask).save(masks / f"{name}.png")
    outcomes = translate_slides(replace(config, mask=masks))
    assert [o.status for o in outcomes] == ["translated", "failed", "failed", "translated"]
    assert outcomes[1].error == (
        f"{masks}: no mask for slide one_HE.tif; add one_HE.geojson, one_HE.png or one_HE.tif"
    )
    for name, rows in ((MADE[0], 24), (MADE[2], 48)):
        plain = np.ptp(pixels(config.out / name).reshape(HEIGHT, -1), axis=1) == 0
        assert (plain.sum(), plain[rows:].all()) == (HEIGHT - rows, True)


def test_the_mask_of_a_series_is_named_like_its_folder(config, tmp_path):
    """Given as the folder, as one of its files, or in a folder of series."""
    files = write_dicom(tmp_path / "series" / "case1", he_image((HEIGHT, WIDTH), seed=3), 0.5, levels=1)
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[:40] = True
    (tmp_path / "masks").mkdir()
    Image.fromarray(mask).save(tmp_path / "masks" / "case1.png")
    made = []
    for i, given in enumerate((files[0].parent, files[0], tmp_path / "series")):
        one = replace(config, slide=[given], mask=tmp_path / "masks", out=tmp_path / f"out{i}")
        (outcome,) = translate_slides(one)
        made.append(pixels(one.out / outcome.output))
    made.append(pixels(translate(config.of(files[0], tmp_path / "alone"))[0].slide))
    for masked in made[:3]:
        np.testing.assert_array_equal(masked, made[0])
        assert np.ptp(masked[40:], axis=(0, 1)).max() == 0
        assert np.ptp(masked[:40], axis=(0, 1)).max() > 0
    assert np.ptp(made[3][40:], axis=(0, 1)).max() > 0


def test_a_table_states_what_files_do_not(config, tmp_path, caplog):
    """µm/px of each, and which image; --mpp holds for the others."""
    he = tmp_path / "he"
    (he / "torn.svs").unlink()
    for seed, name in enumerate(("one_HE", "x/two")):
        write_tiff(he / f"{name}.tif", he_image((HEIGHT, WIDTH), seed=seed), None, levels=1)
    with tifffile.TiffWriter(he / "both.tif") as tiff:
        for size in ((HEIGHT, WIDTH), (WIDTH, WIDTH)):
            tiff.write(he_image(size, seed=4), photometric="rgb", metadata=None)
    table = tmp_path / "table.csv"
    table.write_text("slide,mpp,series\none_HE,0.4,\nx/two.tif,0.6,\nboth.tif,,1\ngone.tif,1,\n")
    told = replace(config, slide=[he], table=table, mpp=0.55)
    outcomes = translate_slides(told)
    found = {o.output: (o.status, o.mpp, o.width, o.height) for o in outcomes}
    assert found == {
        "both_IHC-SYN.ome.tif": ("translated", 0.55, WIDTH, WIDTH),
        "one_IHC-SYN.ome.tif": ("translated", 0.4, WIDTH, HEIGHT),
        "x/two_IHC-SYN.ome.tif": ("translated", 0.6, WIDTH, HEIGHT),
    }
    assert "table.csv: 1 rows match no slide: gone.tif" in caplog.text
    assert open_slide(config.out / "x/two_IHC-SYN.ome.tif").mpp == pytest.approx(0.6)
    alone = told.of(he / "x" / "two.tif", tmp_path / "alone")
    caplog.clear()
    (files,) = translate(alone)
    assert files.slide.read_bytes() == (config.out / "x/two_IHC-SYN.ome.tif").read_bytes()
    assert "match no slide" not in caplog.text, "the table may hold other slides than this one"
    assert [o.status for o in translate_slides(replace(told, table=None, mpp=None))] == ["failed"] * 3
    table.write_text("slide,um\na,1\n")
    with pytest.raises(PathError, match=r"table\.csv: none of the columns mpp, group"):
        translate_slides(told)


def test_a_region_of_each_slide(config):
    outcomes = translate_slides(replace(config, region="10,20,30,40"))
    assert [(o.width, o.height) for o in outcomes] == [(30, 40), (30, 40), (None, None), (30, 40)]


def test_plans_of_all_slides(config, monkeypatch, tmp_path):
    monkeypatch.setattr(TranslateRun, "describe", lambda self: f"plan of {self.slide.path.name}")
    plans = describe_slides(config)
    assert plans[0] == f"{tmp_path / 'A.tif'}\nplan of A.tif"
    assert "torn.svs\nfails       " in plans[2]
    assert not config.out.exists()


def test_from_python(config, stainer, slides, tmp_path):
    translate_slides(config)
    translator = wsigen.Translator.from_pretrained(stainer, device="cpu", dtype="float32")
    outcomes = translator.save_all(slides, tmp_path / "python", layout="lossless")
    assert [o.status for o in outcomes] == ["translated", "translated", "failed", "translated"]
    for name in MADE:
        assert (tmp_path / "python" / name).read_bytes() == (config.out / name).read_bytes()
    one = translator.save_all(slides[0], tmp_path / "one", region=(0, 0, 32, 16))
    assert [(o.status, o.width, o.height) for o in one] == [("translated", 32, 16)]
    assert batch.as_csv(one).splitlines()[1].startswith(f"{slides[0]},A_IHC-SYN.ome.tif,translated,")
