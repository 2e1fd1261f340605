"""Runs of the stain translators' training, from slides to a snapshot."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.training.stain.conftest import options
from wsigen.cli import main
from wsigen.config import (
    CutConfig,
    CutLossConfig,
    CycleGanConfig,
    CycleGanLossConfig,
    FastCutConfig,
    GanOptimConfig,
    LSeSimConfig,
    LSeSimLossConfig,
    StainOptimConfig,
    StainTrainConfig,
)
from wsigen.errors import DivergedError, InvalidValueError, OutputError, SlideError
from wsigen.nn.snapshot import WEIGHTS
from wsigen.stain.losses import vgg
from wsigen.stain.stainer import load_stainer
from wsigen.training.stain import train
from wsigen.training.stain.cut import Cut
from wsigen.training.stain.train import train_stainer
from wsigen.training.state import CHECKPOINT

ROOT = Path(__file__).parents[3]
CUT_LOSS = CutLossConfig(layers=(0, 4, 8), places=8, heads=8)


@pytest.fixture
def config(stains, tmp_path) -> CutConfig:
    return CutConfig(**options(stains, run_dir=tmp_path / "run", loss=CUT_LOSS, marker="SYN"))


def by(method: str, stains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StainTrainConfig:
    """A run of a method."""
    more: dict[str, Any] = options(stains, run_dir=tmp_path / "run", marker="SYN")
    if method == "cut":
        return CutConfig(**more, loss=CUT_LOSS)
    if method == "fastcut":
        return FastCutConfig(**more, loss=replace(CUT_LOSS, flip_equivariance=True, lambda_identity=0.0))
    if method == "cyclegan":
        return CycleGanConfig(**more, loss=CycleGanLossConfig(pool=3))
    monkeypatch.setitem(vgg.PLANS, "vgg16", (4, vgg.POOL, 6, vgg.POOL))
    torch.manual_seed(0)
    weights = vgg.VGG(vgg.PLANS["vgg16"], ("relu2_1",)).features.state_dict()
    save_file({f"features.{k}": v for k, v in weights.items()}, tmp_path / "vgg.safetensors")
    loss = LSeSimLossConfig(
        layers=("relu2_1",), vgg=str(tmp_path / "vgg.safetensors"), width=4, places=8, patch=8
    )
    return LSeSimConfig(**more, loss=loss)


def stats(run_dir: Path | None) -> list[dict[str, Any]]:
    assert run_dir is not None
    return [json.loads(line) for line in (run_dir / "stats.jsonl").read_text().splitlines()]


def weights(run_dir: Path | None) -> dict[str, torch.Tensor]:
    assert run_dir is not None
    return load_file(run_dir / "snapshot" / WEIGHTS)


def assert_equal(a: Any, b: Any) -> None:
    """Bit by bit, through dictionaries and lists."""
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, list):
        for one, other in zip(a, b, strict=True):
            assert_equal(one, other)
    else:
        assert a == b


METHODS = ("cut", "fastcut", "cyclegan", "lsesim")


@pytest.mark.parametrize("method", METHODS)
def test_resumed_run_equals_one_that_never_stopped(method, stains, tmp_path, monkeypatch):
    """All of the checkpoint, not only the weights: optimisers, average, heads, pools."""
    config = by(method, stains, tmp_path, monkeypatch)
    straight = replace(config, run_dir=tmp_path / "straight")
    snapshot = train_stainer(straight)
    # the rate falls with the share of the run that has passed, so the first half must know the whole
    with monkeypatch.context() as patch:
        patch.setattr(train._Run, "_asked_to_stop", lambda self, received: self.state.images == 4)
        with pytest.raises(KeyboardInterrupt):
            train_stainer(config)
    assert torch.load(tmp_path / "run" / CHECKPOINT, weights_only=True)["update"] == 2
    train_stainer(config)
    first, second = (torch.load(tmp_path / r / CHECKPOINT, weights_only=True) for r in ("straight", "run"))
    assert first["update"] == 4
    assert_equal(first, second)
    assert_equal(weights(straight.run_dir), weights(config.run_dir))
    losses = [{k: r[k] for k in r if not k.endswith(("second", "fraction"))} for r in stats(straight.run_dir)]
    assert all(np.isfinite(v) for r in losses for v in r.values() if isinstance(v, float))
    assert [r["update"] for r in losses if "loss" in r] == [1, 2, 3, 4]
    net = load_stainer(snapshot)
    assert (net.config["marker"], net.config["mpp"], net.config["patch_size"]) == ("SYN", 1.0, 32)


def test_run_leaves_all_that_a_user_needs(config):
    train_stainer(config)
    assert config.run_dir is not None
    report = stats(config.run_dir)[0]
    assert list(report) == [
        *("kimg", "update", "loss", "gan", "nce", "nce_identity", "discriminator"),
        *("lr", "images_per_second", "data_wait_fraction"),
    ]
    (last,) = [r for r in stats(config.run_dir) if "val" in r]
    assert last["kimg"] == 0.008
    val = last["val"]
    assert val["held_out"] == {"source": True, "target": False}
    assert val["dab_target"]["mean"] > 0
    assert set(val) == {
        *("dab", "dab_target", "dab_kl", "hue_correlation", "haematoxylin_correlation", "held_out"),
    }
    with Image.open(config.run_dir / "translations-000000.008kimg.png") as sheet:
        assert sheet.size == (2 * 32, 3 * 32)
    saved = yaml.safe_load((config.run_dir / "config.yaml").read_text())
    assert (saved["method"], saved["loss"]["tau"], saved["generator"]["width"]) == ("cut", 0.07, 4)
    assert {p.name for p in config.run_dir.iterdir()} == {
        *("checkpoint.pt", "config.yaml", "index-source.parquet", "index-target.parquet", "lock"),
        *("snapshot", "stats.jsonl", "translations-000000.008kimg.png"),
    }


def test_pictures_show_source_translation_and_target(config):
    """The rows of the sheet: held-out H&E, the snapshot's translation of it, and real IHC."""
    net = load_stainer(train_stainer(config))
    sheet = np.asarray(Image.open(config.run_dir / "translations-000000.008kimg.png"))
    source, made, target = sheet.reshape(3, 32, 2, 32, 3).transpose(0, 2, 1, 3, 4)
    x = torch.from_numpy(source.copy()).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.inference_mode():
        expected = ((net(x) + 1) * 127.5).round().clamp(0, 255).permute(0, 2, 3, 1).numpy()
    assert np.abs(made - expected).max() <= 1
    assert source[..., 0].mean() > 1.05 * target[..., 0].mean(), "IHC has less red"


def test_learning_rate_is_constant_and_then_falls_to_nothing(config):
    optim = StainOptimConfig(lr=1e-3, constant=0.5)
    train_stainer(replace(config, optim=optim, kimg=0.016))
    lr = [r["lr"] for r in stats(config.run_dir) if "lr" in r]
    assert lr == pytest.approx([1e-3] * 5 + [0.75e-3, 0.5e-3, 0.25e-3])
    optimizers = torch.load(config.run_dir / CHECKPOINT, weights_only=True)
    for name in ("optimizer_G", "optimizer_D"):
        (group,) = optimizers[name]["param_groups"]
        assert group["lr"] == pytest.approx(0.25e-3)
        assert tuple(group["betas"]) == (0.5, 0.999)


def test_discriminator_has_a_learning_rate_of_its_own(config):
    optim = GanOptimConfig(lr=1e-3, discriminator_lr=4e-4, constant=0.5)
    train_stainer(replace(config, optim=optim, kimg=0.008))
    optimizers = torch.load(config.run_dir / CHECKPOINT, weights_only=True)
    rates = {name: optimizers[f"optimizer_{name}"]["param_groups"][0]["lr"] for name in "GD"}
    assert rates == pytest.approx({"G": 0.5e-3, "D": 0.2e-3})


def test_training_learns_the_colour(stains, tmp_path):
    """Without a generator's wish to keep structure, a few updates make the mean colour that of the target."""
    loss = replace(CUT_LOSS, lambda_nce=0.1, lambda_identity=0.0)
    optim = StainOptimConfig(lr=2e-3)
    config = CutConfig(
        **options(
            stains, run_dir=tmp_path / "run", loss=loss, optim=optim, kimg=0.3, report_every=50, val_images=8
        )
    )
    train_stainer(replace(config, kimg=0.002))
    train_stainer(config)
    first, last = [r["val"] for r in stats(config.run_dir) if "val" in r]
    assert last["dab_kl"] < 0.6 * first["dab_kl"]


@pytest.fixture
def another_precision() -> Iterator[None]:
    """Accelerate keeps the first precision of a process; here it forgets."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("another_precision")
def test_bf16_is_an_option(config):
    train_stainer(replace(config, mixed_precision="bf16", kimg=0.004))
    assert all(value.dtype == torch.float32 for value in weights(config.run_dir).values())
    assert all(np.isfinite(r["loss"]) for r in stats(config.run_dir) if "loss" in r)


def test_interrupt_finishes_the_update_and_can_be_continued(config, monkeypatch):
    report = train._Run._report

    def report_and_interrupt(self: Any, *args: Any) -> None:
        report(self, *args)
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(train._Run, "_report", report_and_interrupt)
        with pytest.raises(KeyboardInterrupt):
            train_stainer(config)
    assert torch.load(config.run_dir / CHECKPOINT, weights_only=True)["update"] == 1
    assert load_stainer(config.run_dir / "snapshot").config["width"] == 4
    train_stainer(config)
    assert [r["update"] for r in stats(config.run_dir) if "loss" in r] == [1, 2, 3, 4]


def test_nan_stops_the_run_and_keeps_the_last_good_checkpoint(config, monkeypatch):
    train_stainer(replace(config, kimg=0.004))
    before = (config.run_dir / CHECKPOINT).read_bytes()
    update = Cut.update

    def poisoned(self: Cut, batch: Any) -> Any:
        losses = update(self, batch)
        with torch.no_grad():
            next(self.discriminator.parameters()).fill_(float("nan"))
        return losses

    monkeypatch.setattr(Cut, "update", poisoned)
    with pytest.raises(DivergedError, match=r"good checkpoint is kept in .* lower --optim\.lr"):
        train_stainer(config)
    assert (config.run_dir / CHECKPOINT).read_bytes() == before


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"loss": replace(CUT_LOSS, tau=0.1)}, "loss"),
        ({"seed": 1}, "seed"),
        ({"generator": options()["generator"].__class__(width=5, blocks=1)}, "generator"),
    ],
)
def test_run_folder_of_another_run_is_refused(config, change, part):
    train_stainer(replace(config, kimg=0.002))
    with pytest.raises(InvalidValueError, match=rf"holds a run with {part}=.*pass another --run_dir"):
        train_stainer(replace(config, **change))


def test_run_folder_of_another_method_is_refused(config, stains):
    train_stainer(replace(config, kimg=0.002))
    other = CycleGanConfig(**options(stains, run_dir=config.run_dir))
    with pytest.raises(InvalidValueError, match="holds a run with method=cut, this one has cyclegan"):
        train_stainer(other)


def test_field_that_came_into_being_later_does_not_end_a_run(config):
    """A checkpoint of an older version goes on: what it did not know of has its default."""
    train_stainer(replace(config, kimg=0.002))
    path = config.run_dir / "config.yaml"
    saved = yaml.safe_load(path.read_text())
    del saved["loss"]["flip_equivariance"], saved["discriminator"]["antialias"]
    path.write_text(yaml.safe_dump(saved))
    train_stainer(replace(config, kimg=0.004))
    assert torch.load(config.run_dir / CHECKPOINT, weights_only=True)["update"] == 2
    assert yaml.safe_load(path.read_text())["loss"]["flip_equivariance"] is False


def test_other_slides_in_a_run_folder_are_warned_of(config, stains, caplog):
    train_stainer(replace(config, kimg=0.002))
    data = replace(config.data, source=str(stains / "he" / "a.tif"))
    train_stainer(replace(config, data=data, kimg=0.004))
    assert "continues with the slides of its index-source.parquet and index-target.parquet" in caplog.text
    source = torch.load(config.run_dir / CHECKPOINT, weights_only=True)
    assert source["update"] == 2


def test_patches_that_a_domain_cannot_serve_are_refused(config):
    data = replace(config.data, mpp_range=(0.25, 0.25))
    with pytest.raises(InvalidValueError, match=r"data\.source: no slide can serve 32 px patches"):
        train_stainer(replace(config, data=data))


def test_slides_that_are_not_there_are_refused(config):
    data = replace(config.data, target="nowhere/*_SYN.tif")
    with pytest.raises(SlideError, match="no slide matches this pattern"):
        train_stainer(replace(config, data=data))


def test_checkpoint_of_a_larger_pool_is_refused(stains, tmp_path):
    config = CycleGanConfig(**options(stains, run_dir=tmp_path / "run", loss=CycleGanLossConfig(pool=2)))
    train_stainer(replace(config, kimg=0.004))
    path = tmp_path / "run" / "config.yaml"
    path.write_text(path.read_text().replace("pool: 2", "pool: 1"))
    with pytest.raises(OutputError, match="holds 2 images"):
        train_stainer(replace(config, loss=CycleGanLossConfig(pool=1)))


def keep_gradients() -> list[torch.Tensor]:
    """A list that fills with what each step of Adam is given."""
    kept: list[torch.Tensor] = []
    step = torch.optim.Adam.step

    def keep_and_step(self: torch.optim.Adam, *args: Any, **kwargs: Any) -> Any:
        grads = [p.grad.flatten() for g in self.param_groups for p in g["params"] if p.grad is not None]
        kept.append(torch.cat(grads).clone())
        return step(self, *args, **kwargs)

    torch.optim.Adam.step = keep_and_step  # pyright: ignore[reportAttributeAccessIssue]
    return kept


SCRIPT = """
import os
import sys
import torch
from accelerate import PartialState
from tests.training.stain.test_train_stainer import keep_gradients
from wsigen.cli import main

kept = keep_gradients()
main.train(sys.argv[2:])
if os.environ["RANK"] == "0":
    torch.save(kept, sys.argv[1])
assert PartialState().num_processes == 2
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["cut", "cyclegan"])
def test_two_processes_agree_with_one(method, stains, tmp_path, monkeypatch):
    """Gradients: the same images, places and past images, however many processes share them.

    At a rate of nearly 0, since Adam makes steps of full size out of gradients that are all rounding.
    """
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    own = {
        "cut": ["--loss.layers=[0,4,8]", "--loss.places=8", "--loss.heads=8"],
        "cyclegan": ["--loss.pool=2"],
    }
    flags = [
        f"--method={method}",
        f"--data.source={stains / 'he'}",
        f"--data.target={stains / 'ihc' / '*_SYN.tif'}",
        f"--data.table={stains / 'table.csv'}",
        *("--data.patch_size=32", "--data.batch=2", "--data.mpp_range=[1,1]", "--data.workers=0"),
        *(
            "--generator.width=4",
            "--generator.blocks=1",
            "--discriminator.width=4",
            "--discriminator.layers=1",
        ),
        *("--kimg=0.008", "--validate_every=0.004", "--val_images=1", "--preview_images=1"),
        *("--mixed_precision=no", "--report_every=1", "--optim.lr=1e-9", *own[method]),
    ]
    monkeypatch.setattr(torch.optim.Adam, "step", torch.optim.Adam.step)  # so that it is put back
    one = keep_gradients()
    main.train([*flags, f"--run_dir={tmp_path / 'run1'}"])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        str(script),
    ]
    command = [*launch, str(tmp_path / "gradients.pt"), *flags, f"--run_dir={tmp_path / 'run2'}"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=200)
    two = torch.load(tmp_path / "gradients.pt", weights_only=True)
    assert len(one) == len(two) == 8, "two optimisers, four updates"
    # The gradient of an L1 loss is a sign: rounding, which differs between CPUs, turns it at single pixels.
    tolerance = {"cut": 1e-4, "cyclegan": 5e-3}[method]
    for a, b in zip(one, two, strict=True):
        assert a.norm() > 1e-3
        assert (a - b).norm() < tolerance * a.norm()
    losses = [[r["loss"] for r in stats(tmp_path / run) if "loss" in r] for run in ("run1", "run2")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
