"""The command ``sample`` with an upscaler: presets, models, overviews, and what is refused and how."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import cv2
import numpy as np
import openslide
import pytest
import tifffile
import torch
import yaml

from tests.pipeline.models import QUICK, small_net
from tests.sampling.upscalers import small_upscaler
from tests.stain.models import small_generator
from wsigen.cli import main
from wsigen.geometry import Region, Size
from wsigen.nn.model import save_model
from wsigen.nn.snapshot import save_snapshot, weights_hash
from wsigen.pipeline import sample as pipeline_sample
from wsigen.sampling.pixels import SkipRule, background_of
from wsigen.sampling.spec import UpscaleSpec
from wsigen.sampling.upscale import UpscaledStage
from wsigen.stain.stainer import save_stainer


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Models with and without an upscaler, an upscaler alone, presets and pictures."""
    folder = tmp_path_factory.mktemp("one-step")
    save_model(folder / "model", denoiser=small_net(), upscaler=small_upscaler())
    save_model(folder / "without", denoiser=small_net())
    save_snapshot(small_upscaler(1), folder / "other")
    save_snapshot(small_upscaler(k=3), folder / "k3")
    for name, from_mpp in (("one", "inf"), ("mixed", 0.5)):
        values = QUICK.as_dict() | {"upscaler": {"from_mpp": from_mpp}}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    rng = np.random.default_rng(0)
    picture = np.full((40, 40, 3), 240, np.uint8)
    picture[8:20, 10:30] = rng.integers(60, 200, (12, 20, 3))
    cv2.imwrite(str(folder / "square.png"), picture[..., ::-1])
    cv2.imwrite(str(folder / "wide.png"), picture[:32])
    tifffile.imwrite(folder / "known.tif", picture, resolution=(1250, 1250), resolutionunit="CENTIMETER")
    return folder


@pytest.fixture
def sample(folder, tmp_path):
    """Run ``sample`` with the small networks; later flags win."""

    def run(*flags, out=tmp_path / "out", model="model", preset="one"):
        where = [f"--model={folder / model}", f"--preset={folder / f'{preset}.yaml'}", f"--out={out}"]
        main.sample([*where, "--dtype=float32", "--layout=lossless", "--name=a", *map(str, flags)])
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
        return line

    return run


SMALL = ("--size", 256, "--stages", 2)


def pixels(out: Path) -> np.ndarray:
    with openslide.OpenSlide(out / "a_HE.ome.tif") as slide:
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]


def digests(out: Path) -> dict[str, str]:
    return {p.name: sha256(p.read_bytes()).hexdigest() for p in sorted(out.iterdir()) if p.is_file()}


def facts(out: Path) -> dict:
    return json.loads((out / "a_HE.json").read_text())


class Picture:
    def __init__(self, image: np.ndarray) -> None:
        self.image = image

    def read(self, region: Region) -> np.ndarray:
        return self.image[region.y : region.y1, region.x : region.x1]


def upscaled(image: np.ndarray, net, *, stages: int, mpp: float, seed: int = 0) -> np.ndarray:
    """What the stages by an upscaler make of an overview, without any of the machinery around them."""
    colour = background_of(image, (243, 243, 243))
    for stage in range(1, stages + 1):
        spec = UpscaleSpec(
            stage=stage,
            size=Size(*image.shape[:2]).times(2),
            k=2,
            mpp=mpp * 2 ** (stages - stage),
            seed=seed,
            skip=SkipRule(),
        )
        image = UpscaledStage(spec, net, Picture(image), background=colour).read(spec.bounds)
    return image


def assert_alike(made: np.ndarray, expected: np.ndarray) -> None:
    """Up to rounding: kernels round by how weights lie in memory, and those of a file lie otherwise."""
    apart = np.abs(made.astype(int) - expected)
    assert apart.max() <= 1
    assert (apart > 0).mean() < 0.01


def test_a_slide_in_one_step_per_stage_says_how_it_was_made(sample, folder):
    out = sample(*SMALL)
    said = facts(out)
    assert said["preset_values"]["upscaler"]["from_mpp"] == "inf"
    assert said["model_hash"] == weights_hash(folder / "model" / "denoiser")
    assert said["upscaler_hash"] == weights_hash(folder / "model" / "upscaler")
    assert said["joints"] == [{"name": "cells of background", "pitch": 64, "rows": [0], "cols": [0]}]
    base = cv2.imread(str(out / "a_HE.png"))[..., ::-1]
    assert base.shape == (64, 64, 3)
    assert_alike(pixels(out), upscaled(base, small_upscaler(), stages=2, mpp=0.5))


def test_preset_auto_is_one_step_where_there_is_an_upscaler(sample, folder, tmp_path):
    quick = ("--size=128", "--stages=1", "--preset=auto")
    assert facts(sample(*quick))["preset"] == "one-step"
    assert facts(sample(*quick, model="without", out=tmp_path / "b"))["preset"] == "fast"
    given = sample(*quick, "--upscaler", folder / "other", model="without", out=tmp_path / "c")
    assert facts(given)["preset"] == "one-step"


def test_another_upscaler_makes_another_slide_of_the_same_overview(sample, folder, tmp_path):
    own, other = sample(*SMALL), sample(*SMALL, "--upscaler", folder / "other", out=tmp_path / "b")
    assert (own / "a_HE.png").read_bytes() == (other / "a_HE.png").read_bytes()
    assert not np.array_equal(pixels(own), pixels(other))
    assert facts(other)["upscaler_hash"] == weights_hash(folder / "other")
    assert facts(own)["fingerprint"] != facts(other)["fingerprint"]
    alone = sample(*SMALL, "--upscaler", folder / "other", model="without", out=tmp_path / "c")
    assert np.array_equal(pixels(alone), pixels(other))


def test_a_mixed_preset_upscales_the_finest_stage_alone(sample, tmp_path):
    out = sample(*SMALL, preset="mixed")
    coarse = sample("--size", 128, "--stages", 1, "--mpp", 1, preset="mixed", out=tmp_path / "coarse")
    assert "upscaler" not in facts(coarse), "above 0.5 µm/px all is the denoiser's"
    spec = UpscaleSpec(stage=2, size=Size.square(256), k=2, mpp=0.5, seed=0, skip=SkipRule())
    base = cv2.imread(str(out / "a_HE.png"))[..., ::-1]
    colour = background_of(base, (243, 243, 243))
    last = UpscaledStage(spec, small_upscaler(), Picture(pixels(coarse)), background=colour)
    assert_alike(pixels(out), last.read(spec.bounds))


def test_batch_memory_and_schedule_cannot_be_seen(sample, tmp_path):
    ways = (["--batch-size", 1], ["--batch-size", 7, "--schedule", "steps", "--memory", "60MB"])
    first, second = (digests(sample(*SMALL, *way, out=tmp_path / str(i))) for i, way in enumerate(ways))
    assert first == second


def test_an_interrupted_slide_goes_on_to_the_same_bytes(sample, monkeypatch, tmp_path):
    straight = digests(sample("--size", 512, "--stages", 3, out=tmp_path / "straight"))
    cascade = pipeline_sample.run_cascade

    def interrupted(runner, specs, *args, **kwargs):
        cascade(runner, specs[:-1], *args, **kwargs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline_sample, "run_cascade", interrupted)
        with pytest.raises(SystemExit):
            sample("--size", 512, "--stages", 3)
    assert digests(sample("--size", 512, "--stages", 3)) == straight


def test_an_overview_takes_the_place_of_stage_0(sample, folder):
    out = sample("--overview", folder / "square.png", "--overview-mpp", 2, "--mpp", 0.5)
    picture = cv2.imread(str(folder / "square.png"))[..., ::-1]
    assert_alike(pixels(out), upscaled(picture, small_upscaler(), stages=2, mpp=0.5))
    said = facts(out)
    assert (said["size"], said["stages"]) == (160, 2)
    assert said["overview"]["sha256"] == sha256((folder / "square.png").read_bytes()).hexdigest()
    assert np.array_equal(cv2.imread(str(out / "a_HE.png"))[..., ::-1], picture)


def test_a_slide_has_the_aspect_of_its_overview(sample, folder, refusal):
    wide = ("--overview", folder / "wide.png", "--overview-mpp", 2, "--mpp", 0.5)
    assert "got 160; pass --size 160x128, or leave it out" in refusal(*wide, "--size", 160)
    out = sample(*wide, "--size", "160x128")
    picture = cv2.imread(str(folder / "wide.png"))[..., ::-1]
    assert_alike(pixels(out), upscaled(picture, small_upscaler(), stages=2, mpp=0.5))
    assert facts(out)["size"] == "160x128"


def test_the_overview_is_in_the_fingerprint_its_name_is_not(sample, folder, tmp_path):
    picture = cv2.imread(str(folder / "square.png"))
    (tmp_path / "renamed.png").write_bytes((folder / "square.png").read_bytes())
    cv2.imwrite(str(tmp_path / "other.png"), 255 - picture)
    files = (folder / "square.png", tmp_path / "renamed.png", tmp_path / "other.png")
    one, two, three = (
        facts(sample("--overview", file, "--overview-mpp", 1, out=tmp_path / str(i)))["fingerprint"]
        for i, file in enumerate(files)
    )
    assert one == two != three


def test_a_file_that_knows_its_scale_needs_no_more(sample, folder, refusal):
    assert facts(sample("--overview", folder / "known.tif", "--mpp", 2))["stages"] == 2
    line = refusal("--overview", folder / "known.tif", "--overview-mpp", 4)
    assert "whose metadata say 8 µm/px, got 4; leave it out" in line


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "µm/px is not in its metadata; pass --overview-mpp"),
        (["--overview-mpp", 8, "--mpp", 0.6], "8 µm/px reaches: 0.5 µm/px after 4 stages of 2, got 0.6"),
        (["--overview-mpp", 8, "--mpp", 0.6], "pass --mpp 0.25 or 0.5 or 1"),
        (["--overview-mpp", 8, "--mpp", 0.5, "--stages", 3], "pass --mpp 0.25 or 0.5 or 1, or --stages 4"),
        (["--overview-mpp", 0.5], "reaches: 0.25 µm/px after 1 stages"),
        (
            ["--overview-mpp", 2, "--size", 512],
            "--size must be that of the overview, 40 px, times 2**stages",
        ),
        (["--overview-mpp", 2, "--size", 512], "pass --size 160, or leave it out"),
        (["--overview-mpp", 2, "--stages", 0], "--stages must be at least 1 with --overview, got 0"),
        (["--overview-mpp", 2, "--mpp", "0.4-0.6"], "--mpp must be one number with --overview"),
        (["--overview-mpp", 0], "--overview-mpp must be a positive number of µm/px"),
    ],
)
def test_an_overview_that_does_not_fit(refusal, folder, flags, says):
    assert says in refusal("--overview", folder / "square.png", *flags)


def test_other_overviews_that_cannot_be(refusal, folder, tmp_path):
    assert "--overview-mpp must be given with --overview" in refusal("--overview-mpp", 8)
    cv2.imwrite(str(tmp_path / "odd.png"), np.zeros((42, 42, 3), np.uint8))
    line = refusal("--overview", tmp_path / "odd.png", "--overview-mpp", 2, preset="mixed")
    assert "multiple of 8 pixels a side, got 42; crop it to 40, or pass --preset one-step" in line
    (tmp_path / "text.png").write_text("no picture")
    assert "text.png" in refusal("--overview", tmp_path / "text.png", "--overview-mpp", 8)


def test_upscalers_that_cannot_be(refusal, folder, tmp_path):
    line = refusal(*SMALL, model="without")
    assert "makes stages 1 to 2 with an upscaler, and --model" in line
    assert "has none; pass --upscaler FOLDER, or --preset fast" in line
    assert "enlarges 3 times, --k is 2; pass --k 3" in refusal(*SMALL, "--upscaler", folder / "k3")
    assert "holds a Denoiser" in refusal(*SMALL, "--upscaler", folder / "without" / "denoiser")
    bad = small_upscaler()
    bad.out.bias[0] = torch.nan
    save_snapshot(bad, tmp_path / "nan")
    assert "out.bias holds NaN" in refusal(*SMALL, "--upscaler", tmp_path / "nan")


def test_unusual_scales_and_flags_without_effect_are_warned_of(sample, folder, tmp_path, caplog):
    save_snapshot(small_upscaler(mpp_range=(2.0, 16.0)), tmp_path / "coarse")
    sample(*SMALL, "--upscaler", tmp_path / "coarse")
    assert "the upscaler makes stages of 1 to 0.5 µm/px and was trained at 2 to 16; quality" in caplog.text
    sample(
        "--size",
        128,
        "--stages",
        1,
        "--mpp",
        4,
        "--overwrite",
        "--upscaler",
        folder / "other",
        preset="mixed",
    )
    assert "--upscaler is not used" in caplog.text


def test_a_range_may_reach_over_the_scale_at_which_the_upscaler_takes_over(sample, folder):
    """Preset "mixed": the upscaler makes stages of 0.5 µm/px and finer."""
    out = sample("--size", 128, "--stages", 1, "--count", 6, "--mpp", "0.3-0.7", preset="mixed")
    made = [json.loads((out / f"a-{seed}_HE.json").read_text()) for seed in range(6)]
    assert {said["mpp"] <= 0.5 for said in made} == {True, False}
    assert all(("upscaler_hash" in said) == (said["mpp"] <= 0.5) for said in made)


def test_dry_run_plans_tiles_and_knows_the_background_of_an_overview(sample, folder, capsys):
    sample("--size", 4096, "--stages", 6, "--dry-run")
    plan = capsys.readouterr().out
    rows = [line.split() for line in plan.splitlines()[1:8]]
    assert [row[4] for row in rows] == ["5", "1", "1", "1", "1", "4", "16"]
    assert "24 of 24 tiles" in plan
    assert "at most: background is skipped" in plan
    sample("--overview", folder / "square.png", "--overview-mpp", 32, "--dry-run")
    plan = capsys.readouterr().out
    (line,) = [line for line in plan.splitlines() if line.startswith("upscaler")]
    assert int(line.split()[1]) < int(line.split()[3])
    assert "for as much background as the overview has" in plan
    assert "evaluations of" not in plan, "no stage is the denoiser's"


def test_stage_0_of_several_patches(sample, folder, tmp_path):
    values = QUICK.as_dict() | {"upscaler": {"from_mpp": "inf"}}
    values["base"]["patch"] = 16
    (tmp_path / "patches.yaml").write_text(yaml.safe_dump(values))
    out = sample(*SMALL, "--preset", tmp_path / "patches.yaml")
    whole = sample(*SMALL, out=tmp_path / "whole")
    assert facts(out)["preset_values"]["base"]["patch"] == 16
    assert not np.array_equal(cv2.imread(str(out / "a_HE.png")), cv2.imread(str(whole / "a_HE.png")))


def test_several_stains_of_a_slide_in_one_step(sample, monkeypatch, tmp_path):
    for seed, marker in enumerate(("AAA", "BBB")):
        save_stainer(small_generator(seed=seed, blocks=0, marker=marker, mpp=0.5), tmp_path / marker)
    stain = ("--size", 512, "--stages", 3, "--stain", f"{tmp_path / 'AAA'},{tmp_path / 'BBB'}")
    out = sample(*stain, out=tmp_path / "straight")
    assert np.array_equal(pixels(out), pixels(sample(*stain[:4], out=tmp_path / "alone")))
    stained = [np.asarray(tifffile.imread(out / f"a_IHC-{marker}.ome.tif")) for marker in ("AAA", "BBB")]
    assert stained[0].shape == stained[1].shape == (512, 512, 3)
    assert not np.array_equal(stained[0], stained[1])
    cascade = pipeline_sample.run_cascade

    def interrupted(runner, specs, *args, **kwargs):
        cascade(runner, specs[:-1], *args, **kwargs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline_sample, "run_cascade", interrupted)
        with pytest.raises(SystemExit):
            sample(*stain)
    assert digests(sample(*stain)) == digests(out)
