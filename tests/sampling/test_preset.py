"""Presets: the shipped files parse, mean what they say, and mistakes are named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

import wsigen
from wsigen.errors import InvalidValueError
from wsigen.sampling.plan import plan_stage, stage_specs
from wsigen.sampling.preset import GuidedConfig, Preset, preset_from_dict

FOLDER = Path(wsigen.__file__).parent / "presets"


def shipped(name: str) -> Preset:
    return preset_from_dict(yaml.safe_load((FOLDER / f"{name}.yaml").read_text()))


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_preset_parses_and_states_every_field(path):
    values = yaml.safe_load(path.read_text())
    preset = preset_from_dict(values)
    assert preset.as_dict() == values, "no field is left to a default that the file does not show"
    assert preset_from_dict(preset.as_dict()) == preset


def test_paper_is_the_default_and_the_published_algorithm():
    paper = shipped("paper")
    assert paper == Preset()
    spec = stage_specs(paper, size=1024, stages=1, k=2, mpp=0.5, seed=0)[1]
    assert spec.steps == 40
    assert spec.solver.evaluations(40) == 79
    assert (spec.relax, spec.skip, spec.from_guide) == (28, None, False)
    assert len({grid.rows.offset for grid in spec.grids}) > 20


@pytest.mark.parametrize(("size", "patch", "stages"), [(2048, 128, 4), (2048, 256, 3), (65536, 512, 7)])
def test_fast_takes_an_eighth_of_the_evaluations_even_without_skipping(size, patch, stages):
    counts = {}
    for name in ("paper", "fast"):
        specs = stage_specs(shipped(name), size=size, stages=stages, k=2, mpp=0.5, seed=0)
        assert specs[0].patch == patch
        counts[name] = sum(plan_stage(spec).evaluations for spec in specs)
    assert counts["paper"] > 8 * counts["fast"]


def test_fast_starts_from_the_guide_and_follows_it_as_long_as_the_paper():
    spec = stage_specs(shipped("fast"), size=1024, stages=1, k=2, mpp=0.5, seed=0)[1]
    assert spec.from_guide
    assert spec.skip is not None
    assert spec.sigmas[spec.relax - 1] > 0.256 >= spec.sigmas[spec.relax]
    assert spec.history_dtype == torch.float16


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"guide": {}}, "unknown preset key guide; known are base, guided"),
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
    ],
)
def test_mistakes_are_named(values, message):
    with pytest.raises(InvalidValueError, match=message):
        preset_from_dict(values)


def test_sections_may_be_left_out():
    assert preset_from_dict({"guided": {"relax_sigma": 0.256}}).base == Preset().base
    assert preset_from_dict({"guided": {"relax_sigma": 0.256}}).guided == GuidedConfig(relax_sigma=0.256)
