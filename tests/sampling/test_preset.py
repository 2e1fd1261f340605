"""Presets: the shipped files parse, mean what they say, and mistakes are named."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import yaml

import wsigen
from wsigen.errors import InvalidValueError
from wsigen.geometry import Size
from wsigen.sampling.plan import plan_stage
from wsigen.sampling.preset import GuidedConfig, Preset, preset_from_dict
from wsigen.sampling.spec import stage_specs

FOLDER = Path(wsigen.__file__).parent / "config" / "presets"


def shipped(name: str) -> Preset:
    return preset_from_dict(yaml.safe_load((FOLDER / f"{name}.yaml").read_text()))


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_preset_parses_and_states_every_field(path):
    values = yaml.safe_load(path.read_text())
    preset = preset_from_dict(values)
    shown = json.loads(json.dumps(preset.as_dict(), allow_nan=False))
    if values["upscaler"]["from_mpp"] == math.inf:
        values["upscaler"]["from_mpp"] = "inf"
    assert shown == values, "no field is left to a default that the file does not show"
    assert preset_from_dict(shown) == preset


def test_paper_is_the_default_and_the_published_algorithm():
    paper = shipped("paper")
    assert paper == Preset()
    spec = stage_specs(paper, size=Size.square(1024), stages=1, k=2, mpp=0.5, seed=0)[1]
    assert spec.steps == 40
    assert spec.solver.evaluations(40) == 79
    assert (spec.relax, spec.skip, spec.from_guide) == (28, None, False)
    assert len({grid.rows.offset for grid in spec.grids}) > 20


@pytest.mark.parametrize(("size", "patch", "stages"), [(2048, 128, 4), (2048, 256, 3), (65536, 512, 7)])
def test_fast_takes_an_eighth_of_the_evaluations_even_without_skipping(size, patch, stages):
    counts = {}
    for name in ("paper", "fast"):
        specs = stage_specs(shipped(name), size=Size.square(size), stages=stages, k=2, mpp=0.5, seed=0)
        assert specs[0].patch == Size.square(patch)
        counts[name] = sum(plan_stage(spec).evaluations for spec in specs)
    assert counts["paper"] > 8 * counts["fast"]


def test_fast_starts_from_the_guide_and_follows_it_as_long_as_the_paper():
    spec = stage_specs(shipped("fast"), size=Size.square(1024), stages=1, k=2, mpp=0.5, seed=0)[1]
    assert spec.from_guide
    assert spec.skip is not None
    assert spec.sigmas[spec.relax - 1] > 0.256 >= spec.sigmas[spec.relax]
    assert spec.history_dtype == torch.float16


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"guide": {}}, "unknown preset key guide; expected one of base, guided, upscaler"),
        ({"base": {"stepz": 3}}, r"unknown preset key base\.stepz"),
        ({"base": {"shift": "none"}}, r"base\.shift"),
        ({"base": 3}, "base must hold keys and values, got 3"),
        ({"base": {"solver": "ddim"}}, "base: solver must be one of"),
        ({"base": {"steps": 0}}, "base: steps must be at least 1"),
        ({"base": {"steps": "many"}}, "base: a value has the wrong type"),
        ({"guided": {"relax_step": 41}}, "guided: relax_step must be between"),
        ({"guided": {}}, "either relax_step or relax_sigma"),
        ({"guided": {"relax_step": 3, "shift": "spiral"}}, "guided: shift must be one of"),
        ({"guided": {"relax_step": 3, "history_dtype": "int8"}}, "history_dtype must be one of"),
        ({"guided": {"relax_step": 3, "sigma_start": 0.001}}, "guided: noise levels must"),
        ({"guided": {"relax_step": 3, "skip_margin": -1}}, "guided: skip_tolerance"),
        ({"base": {"patch": 0}}, "base: patch must be at least 1, or null for all of stage 0, got 0"),
        ({"upscaler": {"mpp": 1}}, r"unknown preset key upscaler\.mpp; expected one of from_mpp"),
        ({"upscaler": {"from_mpp": 0}}, "upscaler: from_mpp must be a positive number of µm/px"),
        ({"upscaler": {"from_mpp": math.nan}}, "upscaler: from_mpp must be a positive number of µm/px"),
        ({"upscaler": {"from_mpp": "fine"}}, "upscaler: a value has the wrong type"),
        ({"upscaler": {"skip_tolerance": 256}}, "upscaler: skip_tolerance"),
    ],
)
def test_mistakes_are_named(values, message):
    with pytest.raises(InvalidValueError, match=message):
        preset_from_dict(values)


def test_sections_may_be_left_out():
    assert preset_from_dict({"guided": {"relax_sigma": 0.256}}).base == Preset().base
    assert preset_from_dict({"guided": {"relax_sigma": 0.256}}).guided == GuidedConfig(relax_sigma=0.256)


def kinds(values: dict, **changes: object) -> list[str]:
    how = {"size": Size.square(1024), "stages": 4, "k": 2, "mpp": 0.5, "seed": 0}
    return [type(spec).__name__ for spec in stage_specs(preset_from_dict(values), **(how | changes))]


@pytest.mark.parametrize(
    ("from_mpp", "upscaled"),
    [(None, 0), (0.4, 0), (0.5, 1), (1.9, 2), (2.0, 3), (4, 4), (1e9, 4), ("inf", 4)],
)
def test_the_upscaler_takes_over_from_a_pixel_size_on(from_mpp, upscaled):
    values = {"guided": {"relax_sigma": 0.256}, "upscaler": {"from_mpp": from_mpp}}
    assert kinds(values) == ["StageSpec"] * (5 - upscaled) + ["UpscaleSpec"] * upscaled


def test_a_picture_takes_the_place_of_stage_0_and_may_have_any_side_if_all_else_is_upscaled():
    values = {"guided": {"relax_sigma": 0.256}, "upscaler": {"from_mpp": "inf"}}
    assert (
        kinds(values, given=True, size=Size.square(75 * 16), multiple=16)
        == ["GivenSpec"] + ["UpscaleSpec"] * 4
    )
    values["upscaler"]["from_mpp"] = 1
    with pytest.raises(InvalidValueError, match="multiple of 16 pixels a side, got 75; crop it to 64"):
        kinds(values, given=True, size=Size.square(75 * 16), multiple=16)


def test_patches_of_their_own_size():
    preset = preset_from_dict({"base": {"patch": 64}, "guided": {"relax_sigma": 0.256, "patch": 32}})
    specs = stage_specs(preset, size=Size.square(1024), stages=2, k=2, mpp=0.5, seed=0, multiple=16)
    assert [spec.patch.sides for spec in specs] == [(side, side) for side in (64, 32, 32)]
    assert [spec.size.height for spec in specs] == [256, 512, 1024]
    whole = stage_specs(preset, size=Size.square(128), stages=2, k=2, mpp=0.5, seed=0, multiple=16)
    assert [spec.patch.sides for spec in whole] == [(side, side) for side in (32, 32, 32)]
    with pytest.raises(InvalidValueError, match=r"base\.patch .* multiple of 24, .* got 64; take 48 or 72"):
        stage_specs(preset, size=Size.square(96 * 4), stages=2, k=2, mpp=0.5, seed=0, multiple=24)


def test_one_step_is_the_denoiser_once_and_the_upscaler_ever_after():
    specs = stage_specs(shipped("one-step"), size=Size.square(65536), stages=7, k=2, mpp=0.5, seed=0)
    assert [type(spec).__name__ for spec in specs] == ["StageSpec"] + ["UpscaleSpec"] * 7
    assert specs[0].solver.evaluations(specs[0].steps) == 39
    assert specs[-1].skip is not None
