"""The command ``wsigen translate``, and ``sample --stain``, as a user meets them."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import openslide
import pytest
import yaml

from tests.pipeline.models import PAINT, small_snapshot
from tests.pipeline.test_source import png
from tests.stain.models import small_generator
from tests.synthetic import damage_tile, he_image, write_tiff
from wsigen import runtime
from wsigen.cli import main
from wsigen.pipeline import translate as pipeline_translate
from wsigen.pipeline.outputs import NOTICE
from wsigen.runtime import parse_bytes
from wsigen.stain.stainer import bundled_markers, save_stainer


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A slide of 0.5 µm/px, two stainers for it, a model and a preset."""
    folder = tmp_path_factory.mktemp("inputs")
    write_tiff(folder / "case_HE.tif", he_image((700, 520), seed=3), 0.5, compression="zstd")
    for seed, marker in enumerate(("SYN", "CGA")):
        save_stainer(small_generator(blocks=0, seed=seed, marker=marker, mpp=0.5), folder / marker)
    save_stainer(small_generator(blocks=0), folder / "nameless")
    small_snapshot(folder / "model")
    (folder / "preset.yaml").write_text(yaml.safe_dump(PAINT.as_dict()))
    return folder


@pytest.fixture
def translate(folder, tmp_path):
    """Run ``wsigen translate``; later flags win."""

    def run(*flags, slide=folder / "case_HE.tif"):
        few = [f"--stainer={folder / 'SYN'}", f"--out={tmp_path / 'out'}", "--dtype=float32"]
        main.main(["translate", str(slide), *few, *map(str, flags)])
        return tmp_path / "out"

    return run


@pytest.fixture
def sample(folder, tmp_path):
    """Run ``sample --stain`` on a small slide; later flags win."""

    def run(*flags):
        few = [
            "--size=128",
            "--stages=1",
            f"--model={folder / 'model'}",
            f"--preset={folder / 'preset.yaml'}",
        ]
        more = [f"--out={tmp_path / 'out'}", "--dtype=float32", f"--stain={folder / 'SYN'}"]
        main.sample([*few, *more, *map(str, flags)])
        return tmp_path / "out"

    return run


@pytest.fixture
def refusal(capsys):
    """Run something, expect it to refuse, and return the one line that it says."""

    def run(command, *flags, **kwargs):
        with pytest.raises(SystemExit) as stopped:
            command(*flags, **kwargs)
        assert stopped.value.code == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
        return line

    return run


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_an_ihc_slide_with_its_companions(translate):
    out = translate("--layout", "generic", "--name", "mine", "--marker", "CgA")
    assert names(out) == [f"mine_IHC-CgA.{e}" for e in ("jpg", "json", "ome.tif")]
    with openslide.OpenSlide(out / "mine_IHC-CgA.ome.tif") as slide:
        assert slide.level_dimensions == ((520, 700), (260, 350))
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(0.5)
    facts = json.loads((out / "mine_IHC-CgA.json").read_text())
    assert (facts["notice"], facts["marker"], facts["layout"]) == (NOTICE, "CgA", "generic")
    assert facts["norm"] == {"kind": "dn", "kernel": "constant", "size": 3, "granularity": 1}


def test_tile_does_not_show(translate, tmp_path):
    for tile in (64, 256, "auto"):
        translate("--tile", tile, "--out", tmp_path / str(tile))
    one, two, three = ((tmp_path / t / "case_IHC-SYN.ome.tif").read_bytes() for t in ("64", "256", "auto"))
    assert one == two == three


@pytest.mark.parametrize(
    ("norm", "facts"),
    [
        ("in", ("in", "constant", 3, 1)),
        ("tin", ("tin", "constant", 3, 1)),
        ("kin-gaussian-5", ("kin", "gaussian", 5, 1)),
        ("kin-inf", ("kin", "constant", "inf", 1)),
        ("dn-4", ("dn", "constant", 3, 4)),
    ],
)
def test_other_norms(translate, norm, facts):
    out = translate("--norm", norm)
    found = json.loads((out / "case_IHC-SYN.json").read_text())["norm"]
    assert tuple(found.values()) == facts


def test_dry_run_prints_the_plan_and_writes_nothing(translate, capsys, folder, tmp_path):
    both = f"{folder / 'SYN'},{folder / 'CGA'}"
    translate("--stainer", both, "--tile", 256, "--dry-run", "--memory", "1MB")
    plan = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in plan] == ["slide", "stains", "time", "memory", "disk"]
    assert "520 × 700 px, 0.5 µm/px; 67 % of the tiles show tissue" in plan[0]
    assert "SYN, CGA: 18 tiles of 256 px and 2 patches of statistics" in plan[1]
    assert not (tmp_path / "out").exists()


def test_a_slide_of_a_scale_that_the_stainer_does_not_know(translate, caplog):
    translate("--mpp", 0.25)
    assert "the slide has 0.25 µm/px and stainer" in caplog.text
    assert "was trained at 0.5; quality may be lower" in caplog.text


def test_config_file_and_flags_over_it(translate, tmp_path):
    (tmp_path / "mine.yaml").write_text("name: mine\nlayout: lossless\n")
    out = translate("--config", tmp_path / "mine.yaml", "--layout", "generic")
    assert json.loads((out / "mine_IHC-SYN.json").read_text())["layout"] == "generic"


def test_interrupt_says_how_to_go_on(translate, monkeypatch, caplog):
    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline_translate, "slide_rows", interrupted)
        with pytest.raises(SystemExit) as stopped:
            translate()
    assert stopped.value.code == 130
    assert "interrupted; the same command continues from here" in caplog.text
    assert names(translate())[-1] == "case_IHC-SYN.ome.tif"


def test_too_little_memory_names_what_would_do(translate, refusal):
    line = refusal(translate, "--memory", "100MB")
    assert "with a slide 520 px wide and tiles of 256 px, one stainer takes" in line
    assert "--memory allows 100MB; pass --memory " in line
    translate("--memory", line.rpartition(" ")[2])


def test_little_room_is_warned_of(translate, monkeypatch, caplog):
    monkeypatch.setattr("wsigen.pipeline.run.free_bytes", lambda path: 1000)
    translate()
    assert "1 KiB are free; if the disk fills up, make room" in caplog.text


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--stainer", "XYZ"], "XYZ: no stainer of this name; bundled markers are"),
        (["--stainer", ""], "--stainer must be a bundled name (SYN), a folder or a hub id"),
        (["--marker", "a/b"], "--marker must be letters, digits and + - . _, got 'a/b'"),
        (["--marker", "A,B"], "--marker must name one for each of 1 stainers, got A, B"),
        (["--norm", "bn"], "norm must be such as in, tin, kin"),
        (["--tile", "100001"], "--tile must be auto or a multiple of 4"),
        (["--stats-pitch", "100"], "--stats-pitch must be a multiple of 4, at least 512 px, got 100"),
        (["--mpp", "0"], "--mpp must be a number in (0, 1000] µm/px, got 0.0"),
        (["--memory", "lots"], "--memory must be an amount such as 8GiB"),
        (["--device", "cuda:99"], "--device cuda:99: there is none on this machine"),
        (["--name", "a/b"], "--name must be a plain file name"),
        (["--layout", "svs"], "layout"),
        (["--colour", "4"], "--colour"),
    ],
)
def test_a_flag_that_cannot_be(translate, refusal, flags, says):
    assert says in refusal(translate, *flags)


def test_slides_that_cannot_be(translate, refusal, folder, tmp_path):
    assert "no such file" in refusal(translate, slide=tmp_path / "none.svs")
    picture = np.asarray(he_image(64))
    assert "pass --mpp" in refusal(translate, slide=png(tmp_path / "a.png", picture))
    grey = png(tmp_path / "g.png", np.full((64, 64), 120, np.uint8))
    assert "is grey; a stainer needs the colours of H&E" in refusal(translate, "--mpp", 0.5, slide=grey)
    (tmp_path / "text.tif").write_text("no slide")
    assert "not a slide" in refusal(translate, slide=tmp_path / "text.tif")
    assert "does not state its marker" in refusal(translate, "--stainer", folder / "nameless")


@pytest.mark.parametrize("name", ["torn.tif", "torn.svs"])
def test_a_damaged_tile_stops_it_or_is_shown_as_glass(translate, refusal, tmp_path, caplog, name):
    text = "Aperio Image Library v11\n512x768 (256x256) JPEG/RGB Q=90|MPP = 0.5" if "svs" in name else None
    path = write_tiff(tmp_path / name, he_image((768, 512), seed=1), 0.5, levels=1, description=text)
    damage_tile(path, "shorter", 3)
    where = f"{path}: damaged at level 0, x 256, y 256, 256 x 256 px ("
    line = refusal(translate, "--layout=lossless", slide=path)
    assert where in line
    assert line.endswith("; copy the file again, or pass --skip-damaged to show such tiles as background")
    assert where in refusal(translate, "--dry-run", slide=path)
    out = translate("--skip-damaged", "--layout=lossless", slide=path)
    said = f"{path}: damaged, shown as background: 1 tile of level 0 (16.67%), the first at x 256, y 256 ("
    assert said in caplog.text
    assert json.loads((out / "torn_IHC-SYN.json").read_text())["skip_damaged"] is True
    with openslide.OpenSlide(out / "torn_IHC-SYN.ome.tif") as slide:
        whole = np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]
    hole = whole[320:448, 320:448].reshape(-1, 3)
    assert (hole == hole[0]).all(), "bare glass"
    assert whole[:256].std() > 1


def test_many_slides(folder, tmp_path, capsys, monkeypatch):
    limits, plans = [], []
    monkeypatch.setattr(runtime, "keep_freed_memory", lambda *largest: limits.append(largest))
    fill = pipeline_translate.TranslateRun.fill
    monkeypatch.setattr(
        pipeline_translate.TranslateRun,
        "fill",
        lambda self, *args: plans.append(self.plan.host_bytes) or fill(self, *args),
    )
    case, bad = folder / "case_HE.tif", tmp_path / "bad.svs"
    bad.write_text("?")
    (tmp_path / "he" / "x").mkdir(parents=True)
    write_tiff(tmp_path / "he" / "x" / "b.tif", he_image((96, 64), seed=1), 0.5, levels=1)
    options = ["--stainer", str(folder / "SYN"), str(bad), "--dtype=float32", f"--out={tmp_path / 'out'}"]
    with pytest.raises(SystemExit) as stopped:
        main.main(["translate", str(case), *options, str(tmp_path / "he")])
    assert stopped.value.code == 2
    said = capsys.readouterr()
    table = tmp_path / "out" / "translate.csv"
    assert said.err.splitlines()[-1] == (
        f"wsigen translate: error: {table}: 1 of 3 slides failed; the same command tries them again and "
        "skips the others"
    )
    assert [line.split()[0] for line in said.out.splitlines()] == [
        "status",
        "translated",
        "failed",
        "translated",
    ]
    assert (tmp_path / "out" / "x" / "b_IHC-SYN.ome.tif").is_file()
    assert len(table.read_text().splitlines()) == 4
    assert len(set(plans)) == 2
    assert limits == [(), *((bytes_ // 16,) for bytes_ in plans)], "as for each slide alone"
    main.main(["translate", str(case), str(tmp_path / "he"), *options[:2], *options[3:]])
    said = capsys.readouterr()
    assert [line.split()[0] for line in said.out.splitlines()] == ["status", "exists", "exists"]


def test_options_of_one_slide_alone(translate, refusal, folder, tmp_path):
    assert "--name must be left out with several slides" in refusal(translate, "--name=a", str(tmp_path))
    both = refusal(lambda *argv: main.main(["index", *argv]), str(folder), "other")
    assert f"slides must be one path, got {folder}, other" in both


def test_existing_output_and_a_folder_that_cannot_be(translate, refusal, tmp_path):
    translate()
    assert "exists already; pass --overwrite" in refusal(translate)
    (tmp_path / "file").write_text("")
    assert "choose another folder" in refusal(translate, "--out", tmp_path / "file" / "out")


def test_a_pair(sample):
    out = sample("--count", 2, "--name", "s")
    assert [n for n in names(out) if n.endswith(".tif")] == [
        f"s-{i}_{kind}.ome.tif" for i in range(2) for kind in ("HE", "IHC-SYN")
    ]
    kept = (out / "s-0_HE.ome.tif").stat().st_mtime_ns
    for file in out.glob("s-1_HE.*"):
        file.unlink()
    sample("--count", 2, "--name", "s")
    assert (out / "s-1_HE.ome.tif").is_file()
    assert (out / "s-0_HE.ome.tif").stat().st_mtime_ns == kept


def test_the_plan_of_a_pair_names_both(sample, capsys, tmp_path):
    sample("--dry-run")
    plan = capsys.readouterr().out
    assert "stains      SYN: 1 tiles of" in plan
    assert "of canvas, wavefront schedule; " in plan
    assert not (tmp_path / "out").exists()


def test_memory_of_a_pair(sample, refusal):
    line = refusal(sample, "--memory", "1MB")
    assert "and its stainers take" in line
    needed = line.rpartition(" ")[2]
    assert parse_bytes(needed) > 1e6
    sample("--memory", needed)


def test_a_stain_that_is_not_there_stops_the_run_before_it_begins(sample, refusal, tmp_path):
    line = refusal(sample, "--stain", "XYZ")
    assert (
        f"XYZ: no stainer of this name; bundled markers are: {', '.join(bundled_markers()) or 'none'}" in line
    )
    assert not (tmp_path / "out").exists()


def test_an_existing_slide_without_its_stain(sample, refusal, caplog):
    out = sample()
    for file in out.glob("*_IHC-SYN*"):
        file.unlink()
    assert "translate it with `wsigen translate" in refusal(sample)
    with caplog.at_level(logging.INFO):
        sample("--overwrite")
    assert "synthetic-0_IHC-SYN.ome.tif" in caplog.text


def test_killed_while_tidying_up(sample, caplog):
    out = sample()
    (out / ".synthetic-0_IHC-SYN.partial").mkdir()
    with caplog.at_level(logging.INFO):
        sample()
    assert "exists already" in caplog.text
    assert not list(out.glob(".*"))
