"""The command ``sample`` as a user meets it: what it writes, what it prints, what it refuses and how."""

from __future__ import annotations

import csv
import json
import logging
import shutil
from pathlib import Path

import cv2
import numpy as np
import openslide
import pytest
import torch
import yaml

from tests.pipeline.models import QUICK, small_net, small_snapshot
from wsigen.cli import main
from wsigen.data.table import SlideTable
from wsigen.nn.snapshot import WEIGHTS, save_snapshot
from wsigen.pipeline import sample as pipeline_sample
from wsigen.pipeline.seeds import slide_mpp
from wsigen.sampling.cascade import run_cascade


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return small_snapshot(tmp_path_factory.mktemp("model") / "snapshot")


@pytest.fixture(scope="module")
def preset(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("preset") / "quick.yaml"
    path.write_text(yaml.safe_dump(QUICK.as_dict()))
    return path


@pytest.fixture
def sample(model, preset, tmp_path):
    """Run ``sample`` with the small model on a small slide; later flags win."""

    def run(*flags, out=tmp_path / "out"):
        few = ["--size=128", "--stages=1", f"--model={model}", f"--preset={preset}", f"--out={out}"]
        main.sample([*few, "--dtype=float32", *map(str, flags)])
        return out

    return run


@pytest.fixture
def refusal(sample, capsys):
    """Run ``sample``, expect it to refuse, and return the one line that it says."""

    def run(*flags, **kwargs):
        with pytest.raises(SystemExit) as stopped:
            sample(*flags, **kwargs)
        assert stopped.value.code == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
        assert line.startswith("sample: error: ")
        return line

    return run


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_slide_with_its_companions(sample):
    out = sample("--mpp", 0.25, "--seed", 7)
    assert names(out) == [f"synthetic-7_HE.{s}" for s in ("jpg", "json", "ome.tif", "png")]
    with openslide.OpenSlide(out / "synthetic-7_HE.ome.tif") as slide:
        assert slide.dimensions == (128, 128)
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(0.25)
    facts = json.loads((out / "synthetic-7_HE.json").read_text())
    assert (facts["seed"], facts["mpp"], facts["synthetic"]) == (7, 0.25, True)


def test_several_slides_and_again_makes_only_the_missing(sample, caplog):
    out = sample("--count", 3, "--name", "s")
    assert [n for n in names(out) if n.endswith(".tif")] == [f"s-{i}_HE.ome.tif" for i in range(3)]
    kept = {n: (out / n).stat().st_mtime_ns for n in names(out) if "s-1" not in n}
    (out / "s-1_HE.ome.tif").unlink()
    with caplog.at_level(logging.INFO):
        sample("--count", 3, "--name", "s")
    assert {n: (out / n).stat().st_mtime_ns for n in kept} == kept
    assert (out / "s-1_HE.ome.tif").is_file()
    assert caplog.text.count("exists already") == 2


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_slides_of_a_range_have_the_values_of_their_seeds_and_a_table(sample, tmp_path):
    out = sample("--count", 4, "--seed", 5, "--mpp", "0.45-0.6", "--layout", "lossless")
    rows = table(out / "synthetic.csv")
    assert [row["slide"] for row in rows] == [f"synthetic-{seed}_HE.ome.tif" for seed in range(5, 9)]
    assert len({row["mpp"] for row in rows}) == 4
    for row in rows:
        facts = json.loads((out / f"synthetic-{row['seed']}_HE.json").read_text())
        assert 0.45 <= facts["mpp"] <= 0.6
        assert str(facts["mpp"]) == row["mpp"]
        assert (facts["fingerprint"], "128", "128") == (row["fingerprint"], row["width"], row["height"])
        with openslide.OpenSlide(out / row["slide"]) as slide:
            assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(facts["mpp"])
    sizes = SlideTable.load(out / "synthetic.csv").match([row["slide"] for row in rows])
    assert [str(found.mpp) for found in sizes.values()] == [row["mpp"] for row in rows]
    # Any of them again, alone: by its seed and the range, or by its seed and its value.
    of = (out / "synthetic-7_HE.ome.tif").read_bytes()
    for mpp in ("0.45-0.6", rows[2]["mpp"]):
        alone = sample("--seed", 7, "--mpp", mpp, "--layout", "lossless", out=tmp_path / mpp)
        assert (alone / "synthetic-7_HE.ome.tif").read_bytes() == of


def test_the_table_holds_the_slides_of_one_name_of_all_calls(sample):
    sample("--seed", 50, "--name", "s-other-50")
    for seed in (12, 3):
        out = sample("--count", 2, "--seed", seed, "--name", "s")
    assert [row["seed"] for row in table(out / "s.csv")] == ["3", "4", "12", "13"]


@pytest.mark.parametrize("schedule", ["wavefront", "steps"])
def test_dry_run_prints_the_plan_and_writes_nothing(sample, capsys, tmp_path, schedule):
    sample("--size", 512, "--stages", 3, "--schedule", schedule, "--count", 2, "--dry-run")
    plan = capsys.readouterr().out
    rows = [line.split() for line in plan.splitlines()[1:5]]
    assert [row[1] for row in rows] == ["64", "128", "256", "512"]
    assert [row[2] for row in rows] == ["4", "2", "1", "0.5"]
    for what in (
        "evaluations of 64 px",
        "ms each on cpu",
        "of canvas",
        "at most while it is made",
        "2 slides",
    ):
        assert what in plan
    assert not (tmp_path / "out").exists()


def test_dry_run_of_the_largest_slide_takes_seconds(sample, capsys):
    sample("--size", 65536, "--stages", 7, "--preset", "fast", "--batch-size", 1, "--dry-run")
    assert "65536" in capsys.readouterr().out


def test_dry_run_of_a_range_names_it(sample, capsys):
    sample("--count", 3, "--mpp", "0.45-0.6", "--dry-run")
    plan = capsys.readouterr().out
    assert "3 slides of 0.45 to 0.6 µm/px" in plan
    assert plan.splitlines()[2].split()[2] == f"{slide_mpp('0.45-0.6', 0):g}"


def test_config_file_and_flags_over_it(sample, tmp_path):
    (tmp_path / "mine.yaml").write_text("seed: 5\nname: mine\n")
    out = sample("--config", tmp_path / "mine.yaml", "--seed", 6)
    assert json.loads((out / "mine_HE.json").read_text())["seed"] == 6


def test_unusual_sizes_and_scales_are_warned_of(sample, caplog):
    sample("--size", 64, "--mpp", 60)
    assert "patch size 32 px was not used in training (16, 64 px); quality may be lower" in caplog.text
    assert (
        "the denoiser makes stages of 120 to 60 µm/px and was trained at 0.25 to 64; quality" in caplog.text
    )


def test_interrupt_says_how_to_go_on(sample, monkeypatch, caplog, tmp_path):
    def interrupted(*args, **kwargs):
        run_cascade(*args, **kwargs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline_sample, "run_cascade", interrupted)
        with pytest.raises(SystemExit) as stopped:
            sample()
    assert stopped.value.code == 130
    assert "interrupted; the same command continues from here" in caplog.text
    assert (sample() / "synthetic-0_HE.ome.tif").is_file()


def test_no_such_model(refusal):
    assert "no such model; give 'default', a snapshot folder, or a hub id" in refusal("--model", "nonesuch")


def test_truncated_weights(refusal, model, tmp_path):
    shutil.copytree(model, tmp_path / "cut")
    weights = tmp_path / "cut" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "weights cannot be read" in refusal("--model", tmp_path / "cut")


def test_nan_in_weights(refusal, tmp_path):
    net = small_net()
    net.pixel_out.weight.data[0, 0, 0, 0] = torch.nan
    save_snapshot(net, tmp_path / "nan")
    assert "pixel_out.weight holds NaN" in refusal("--model", tmp_path / "nan")


def test_a_wide_slide(sample):
    out = sample("--size", "256x128", "--seed", 7)
    with openslide.OpenSlide(out / "synthetic-7_HE.ome.tif") as slide:
        assert slide.dimensions == (256, 128)
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.5)
    facts = json.loads((out / "synthetic-7_HE.json").read_text())
    assert (facts["size"], facts["width"], facts["height"]) == ("256x128", 256, 128)
    assert cv2.imread(str(out / "synthetic-7_HE.png")).shape == (64, 128, 3)


def test_a_size_that_does_not_fit_is_cropped_and_the_plan_says_so(sample, capsys):
    sample("--size", "250x101", "--dry-run")
    plan = capsys.readouterr().out
    assert [line.split()[1] for line in plan.splitlines()[1:3]] == ["128x56", "250x101"]
    assert "crop        made as 256x112 px, kept 250x101 px: the upper left" in plan
    out, larger = (
        sample("--size", "250x101", "--layout", "lossless"),
        sample("--size", "256x112", "--name=b", "--layout", "lossless"),
    )
    with (
        openslide.OpenSlide(out / "synthetic-0_HE.ome.tif") as a,
        openslide.OpenSlide(larger / "b_HE.ome.tif") as b,
    ):
        assert a.dimensions == (250, 101)
        pixels = [np.asarray(slide.read_region((0, 0), 0, (250, 101))) for slide in (a, b)]
    assert np.array_equal(*pixels)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--mpp", "0"], "--mpp must be a positive number of µm/px, or LOW-HIGH such as 0.45-0.6, got 0.0"),
        (["--mpp", "0.6-0.5"], "or LOW-HIGH such as 0.45-0.6, got '0.6-0.5'"),
        (["--mpp", "fine"], "or LOW-HIGH such as 0.45-0.6, got 'fine'"),
        (["--seed", "-1"], "--seed must be between 0 and"),
        (["--stages", "-1"], "--stages must be >= 0"),
        (["--memory", "1.5.2GiB"], "--memory must be an amount such as 8GiB"),
        (["--memory", "lots"], "--memory must be an amount such as 8GiB"),
        (["--batch-size", "0"], "--batch-size must be auto or >= 1"),
        (["--device", "cuda:99"], "--device cuda:99: there is none on this machine"),
        (["--device", "toaster"], "--device must be auto, cpu, cuda"),
        (["--preset", "slow"], "--preset must be one of fast, one-step, paper, or a YAML file, got 'slow'"),
        (["--layout", "svs"], "layout"),
        (["--name", "a/b"], "--name must be a plain file name"),
        (["--colour", "4"], "--colour"),
        (["--size", "many"], "--size must be N or WIDTHxHEIGHT in px, such as 4096 or 8192x4096, got 'many'"),
        (["--size", "0"], "--size must be N or WIDTHxHEIGHT in px"),
        (["--size", "64x"], "--size must be N or WIDTHxHEIGHT in px"),
    ],
)
def test_a_flag_that_cannot_be(refusal, flags, says):
    assert says in refusal(*flags)


def test_unknown_config_key(refusal, tmp_path):
    (tmp_path / "c.yaml").write_text("sizes: 3\n")
    assert "sizes" in refusal("--config", tmp_path / "c.yaml")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("guided: {steps: 3, relax_step: 1, stepz: 4}", "unknown preset key guided.stepz"),
        ("[1, 2]", "must hold the keys base, guided and upscaler"),
        ("a: b: c", "is not valid YAML"),
    ],
)
def test_preset_that_cannot_be(refusal, tmp_path, text, says):
    (tmp_path / "p.yaml").write_text(text)
    assert says in refusal("--preset", tmp_path / "p.yaml")


def test_memory_that_is_too_small(refusal):
    line = refusal("--size", 1024, "--stages", 4, "--schedule", "steps", "--memory", "1MB")
    assert "pass --memory 0.25GiB or --schedule wavefront" in line


def test_existing_output(refusal, sample):
    sample()
    assert "exists already; pass --overwrite" in refusal()
    sample("--overwrite")


def test_one_of_several_that_exists_stops_the_others_before_they_begin(refusal, sample, tmp_path):
    sample("--seed", 2, "--name", "s-2", "--mpp", 1)
    assert "s-2_HE.ome.tif: exists already" in refusal("--count", 3, "--name", "s", "--seed", 1)
    assert not list((tmp_path / "out").glob("s-1*"))


def test_too_little_memory_on_the_device(refusal, monkeypatch):
    def full(*args, **kwargs):
        raise torch.cuda.OutOfMemoryError("tried to allocate 3 GiB")

    monkeypatch.setattr(pipeline_sample, "run_cascade", full)
    assert "with --batch-size 4" in refusal("--batch-size", 8)


def test_killed_while_tidying_up(sample, tmp_path, caplog):
    out = sample()
    work = out / ".synthetic-0_HE.partial"
    work.mkdir()
    with caplog.at_level(logging.INFO):
        sample()
    assert "exists already" in caplog.text
    assert not work.exists()


def test_little_room_is_warned_of(sample, monkeypatch, caplog):
    monkeypatch.setattr("wsigen.pipeline.run.free_bytes", lambda path: 1000)
    sample()
    assert "1 KiB are free; if the disk fills up, make room" in caplog.text


def test_out_that_is_a_file(refusal, tmp_path):
    (tmp_path / "file").write_text("")
    assert "choose another folder" in refusal(out=tmp_path / "file" / "out")


def test_full_disk_keeps_what_is_done(refusal, small_disk):
    line = refusal("--size", 512, "--stages", 3, "--layout", "lossless", out=small_disk)
    assert "no space left on device" in line
    assert "make room" in line
    assert list(small_disk.glob(".synthetic-0_HE.partial/stage-00/*.block"))
