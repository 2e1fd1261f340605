"""Every YAML that is shipped says something that the code understands."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.commands import ROOT, parsed, split
from wsigen.config import STAIN_METHODS, StainDataConfig, UpscalerTrainConfig
from wsigen.errors import InvalidValueError
from wsigen.geometry import Size
from wsigen.nn.denoiser import Denoiser
from wsigen.nn.upscaler import Upscaler
from wsigen.sampling.preset import Preset, load_preset, preset_from_dict, preset_names
from wsigen.sampling.spec import stage_specs

CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
DENOISERS = [path for path in CONFIGS if path.stem.startswith("denoiser")]
UPSCALERS = [path for path in CONFIGS if path.stem.startswith("upscaler")]
TRANSLATORS = [path for path in CONFIGS if path not in (*DENOISERS, *UPSCALERS)]
PRESETS = sorted((ROOT / "wsigen" / "config" / "presets").glob("*.yaml"))


def _name(path: Path) -> str:
    return path.stem


def _values(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _train_config(path: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> Any:
    both = ["--data.source", "HE", "--data.target", "IHC"]
    slides = both if path in TRANSLATORS else ["--data.slides", "PATH"]
    config, file = parsed("train", ["--config", str(path), *slides, *more], monkeypatch)
    assert file == path
    return config


def test_there_are_configs() -> None:
    assert {_name(p) for p in DENOISERS} >= {"denoiser", "denoiser-512", "denoiser-cpu"}
    assert {_name(p) for p in UPSCALERS} >= {"upscaler-cpu"}
    assert {_values(path)["method"] for path in TRANSLATORS} == STAIN_METHODS.keys()
    assert preset_names() == [_name(p) for p in PRESETS] == ["fast", "one-step", "paper"]


@pytest.mark.parametrize("path", CONFIGS, ids=_name)
def test_training_config_is_understood_as_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = asdict(_train_config(path, monkeypatch))

    def compare(written: object, understood: object, where: str) -> None:
        if isinstance(written, dict):
            assert isinstance(understood, dict)
            for key, value in written.items():
                compare(value, understood[key], f"{where}.{key}")
        elif isinstance(written, list):
            assert isinstance(understood, (list, tuple))
            assert len(written) == len(understood)
            for i, value in enumerate(written):
                compare(value, understood[i], f"{where}[{i}]")
        else:
            assert written == understood, where

    compare(_values(path), config, path.name)


@pytest.mark.parametrize("path", CONFIGS, ids=_name)
def test_flags_win_over_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = _train_config(path, monkeypatch, "--kimg", "7", "--optim.lr", "1e-5", "--data.workers", "0")
    assert (config.kimg, config.optim.lr, config.data.workers) == (7, 1e-5, 0)
    if path in DENOISERS:
        assert config.model.block_out_channels == tuple(_values(path)["model"]["block_out_channels"])


@pytest.mark.parametrize("path", TRANSLATORS, ids=_name)
def test_method_of_the_config_is_what_it_says(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = _train_config(path, monkeypatch)
    assert type(config) is STAIN_METHODS[_values(path)["method"]]
    assert config.method == _values(path)["method"]
    assert (config.data.source, config.data.target) == ("HE", "IHC")


@pytest.mark.parametrize(
    "path", [p for p in TRANSLATORS if p.stem.startswith("stain") and "cpu" not in p.stem], ids=_name
)
def test_published_settings_are_the_defaults(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a shipped file says of networks, losses and optimiser is what goes without saying."""
    config = _train_config(path, monkeypatch)
    default = type(config)(data=config.data)
    for part in ("generator", "discriminator", "loss", "optim", "kimg"):
        assert getattr(config, part, None) == getattr(default, part, None), part


def test_published_settings_are_the_published_ones() -> None:
    data = StainDataConfig(source="HE", target="IHC")
    cut, fast, cycle, lsesim = (
        STAIN_METHODS[name](data=data) for name in ("cut", "fastcut", "cyclegan", "lsesim")
    )
    assert cut.loss.layers == (0, 4, 8, 12, 16)
    assert (cut.loss.tau, cut.loss.places, cut.loss.heads) == (0.07, 256, 256)
    assert (cut.loss.lambda_gan, cut.loss.lambda_nce, cut.loss.lambda_identity) == (1, 1, 1)
    assert (fast.loss.lambda_nce, fast.loss.lambda_identity) == (10, 0)
    assert (cycle.loss.lambda_cycle, cycle.loss.lambda_identity, cycle.loss.pool) == (10, 0.5, 50)
    assert (lsesim.loss.lambda_spatial, lsesim.loss.places, lsesim.loss.learned) == (10, 256, True)
    for config in (cut, fast, cycle, lsesim):
        assert (config.optim.lr, config.optim.betas) == (2e-4, (0.5, 0.999))
        assert (config.generator.width, config.generator.blocks, config.discriminator.width) == (64, 9, 64)
    assert (cut.kimg, fast.kimg, cycle.kimg) == (400, 200, 200)
    assert (cut.optim.constant, fast.optim.constant, cycle.optim.constant) == (0.5, 0.75, 0.5)


@pytest.mark.parametrize("path", DENOISERS, ids=_name)
def test_network_of_the_config_can_be_built_for_its_patches(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    config = _train_config(path, monkeypatch)
    with torch.device("meta"):
        net = Denoiser(**asdict(config.model))
    assert all(g.size % net.stride == 0 for g in config.data.patches)
    low, high = config.data.mpp_range
    assert low <= 0.5
    assert high >= 64, "the base image of a 0.5 µm/px slide in seven stages has 64 µm/px"


@pytest.mark.parametrize("path", UPSCALERS, ids=_name)
def test_upscaler_of_the_config_can_be_built_and_reaches_from_base_image_to_slide(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    config = _train_config(path, monkeypatch)
    assert type(config) is UpscalerTrainConfig
    with torch.device("meta"):
        net = Upscaler(**asdict(config.model))
    assert net.k == 2
    low, high = config.data.mpp_range
    assert low <= 0.5
    assert high >= 32, "the first stage below a base image of 64 µm/px has 32 µm/px"


@pytest.mark.parametrize("path", CONFIGS, ids=_name)
def test_command_in_the_head_of_the_config_is_understood(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = [
        line[1:].strip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")
    ]
    text = "\n".join(head).replace("\\\n", " ").replace("[", "").replace("]", "")
    command = next(line for line in text.splitlines() if line.startswith("accelerate launch"))
    words = split(command)
    assert words is not None
    _, file = parsed(*words, monkeypatch)
    assert file is not None
    assert ROOT / file == path


@pytest.mark.parametrize("path", PRESETS, ids=_name)
def test_preset_states_every_value_and_is_understood_as_written(path: Path) -> None:
    preset = load_preset(path.stem)
    assert preset == load_preset(str(path)) == preset_from_dict(_values(path))
    written = json.loads(json.dumps(_values(path)).replace("Infinity", '"inf"'))  # as provenance has it
    assert preset.as_dict() == written


def test_paper_preset_is_the_published_algorithm() -> None:
    spec = stage_specs(load_preset("paper"), size=Size.square(256), stages=2, k=2, mpp=0.5, seed=0)[-1]
    assert (spec.steps, spec.relax, spec.from_guide, spec.skip) == (40, 28, False, None)
    assert (spec.sigmas[0], spec.sigmas[-2], spec.sigmas[-1]) == (80.0, 0.002, 0.0)
    assert spec.solver.evaluations(spec.steps) == 79
    assert load_preset("paper") == Preset(), "the defaults are the paper's"


def test_fast_preset_needs_an_eighth_of_the_evaluations_in_guided_stages() -> None:
    fast, paper = (
        stage_specs(load_preset(name), size=Size.square(256), stages=1, k=2, mpp=0.5, seed=0)[-1]
        for name in ("fast", "paper")
    )
    assert 8 * fast.solver.evaluations(fast.steps) <= paper.solver.evaluations(paper.steps)
    assert fast.sigmas[fast.relax - 1] > 0.256 >= fast.sigmas[fast.relax]


def test_unknown_key_in_a_training_config_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("optim: {learning_rate: 1.0}\n", encoding="utf-8")
    with pytest.raises(InvalidValueError, match="learning_rate"):
        _train_config(path, monkeypatch)
