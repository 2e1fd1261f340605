import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from filelock import FileLock
from PIL import Image
from safetensors.torch import load_file

from wsigen.config import DataConfig, DenoiserConfig, LossConfig, OptimConfig, PatchGroup, TrainConfig
from wsigen.data.patches import PatchDataset, PatchKey, collate
from wsigen.data.survey import load_or_build_index
from wsigen.diffusion.spectrum import image_std
from wsigen.errors import DivergedError, InvalidValueError, OutputError, SlideError
from wsigen.nn.denoiser import load_denoiser
from wsigen.nn.images import to_unit
from wsigen.nn.snapshot import WEIGHTS
from wsigen.training import denoiser, setup
from wsigen.training.denoiser import train
from wsigen.training.state import CHECKPOINT, RunState

ROOT = Path(__file__).parents[2]


def small_run(slides: Path, run_dir: Path) -> TrainConfig:
    return TrainConfig(
        data=DataConfig(
            slides=slides,
            patches=[PatchGroup(size=16, batch=4), PatchGroup(size=32, batch=2, weight=0.5)],
            mpp_range=(0.5, 4.0),
            workers=0,
        ),
        model=DenoiserConfig(patchify=2, block_out_channels=(32,), pixel_channels=4, context_channels=4),
        optim=OptimConfig(lr=2e-3, warmup=2),
        kimg=0.06,
        run_dir=run_dir,
        mixed_precision="no",
        report_every=2,
        val_images=2,
        preview_mpp=(0.5, 2.0),
    )


@pytest.fixture
def config(slides, tmp_path) -> TrainConfig:
    return small_run(slides, tmp_path / "run")


@pytest.fixture(scope="module")
def trained(slides, tmp_path_factory) -> TrainConfig:
    """A run that is finished, never having been interrupted; not to be written to."""
    config = small_run(slides, tmp_path_factory.mktemp("trained") / "run")
    train(config)
    return config


def weights(run_dir):
    return load_file(run_dir / "snapshot" / WEIGHTS)


def assert_same(a, b, **tolerance):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], **tolerance)


def stats(run_dir):
    return [json.loads(line) for line in (run_dir / "stats.jsonl").read_text().splitlines()]


def test_run_leaves_all_that_a_user_needs(trained):
    config = trained
    net = load_denoiser(config.run_dir / "snapshot")
    assert net.config["patch_sizes"] in ([16, 32], (16, 32))
    assert tuple(net.config["mpp_range"]) == (0.5, 4.0)
    assert all(225 <= c <= 255 for c in net.config["background"])
    assert net.config["octave_mpp"] == [0.5, 1.0, 2.0, 4.0]
    for detail, rest in net.config["octave_std"]:  # one octave: the network's stride is 2
        assert 0 < detail[0] < 0.5 < rest[0] < 3**0.5  # glass and tissue are bright, and in [-1, 1]
        assert max(detail[1:]) < 0.5 * detail[0]  # colour is fainter than light
    reports = [r for r in stats(config.run_dir) if "loss" in r]
    assert [r["update"] for r in reports] == sorted(r["update"] for r in reports)
    assert all(0 <= r["data_wait_fraction"] <= 1 for r in reports)
    validation = [r for r in stats(config.run_dir) if "val" in r][-1]
    assert set(validation["val"]) == {"0.5-1", "1-4"}
    assert list(validation["val"]["1-4"]) == ["0.05", "0.15", "0.4", "1", "3", "10", "40"]
    assert validation["val_loss"] < 1.1
    (picture,) = config.run_dir.glob("samples-*.png")
    with Image.open(picture) as image:
        assert image.size == (6 * 16, 2 * 16)


def test_training_learns(config):
    config = replace(config, kimg=1.0, loss=LossConfig(P_mean=0.0, P_std=0.5))
    train(config)
    losses = [r["loss"] for r in stats(config.run_dir) if "loss" in r]
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])


def test_run_begins_with_the_weights_it_is_given(trained, tmp_path):
    config, snapshot = trained, trained.run_dir / "snapshot"
    on = replace(config, init=str(snapshot), run_dir=tmp_path / "on", kimg=0.008, optim=OptimConfig(lr=1e-12))
    train(replace(on, seed=1))
    given, kept = (load_denoiser(folder).config for folder in (snapshot, on.run_dir / "snapshot"))
    assert all(given[name] == kept[name] for name in ("octave_std", "octave_mpp"))
    assert_same(weights(config.run_dir), weights(on.run_dir), rtol=1e-6, atol=1e-6)


def test_weights_of_another_shape_are_refused_with_the_flag_that_mends_it(trained, tmp_path):
    config, snapshot = trained, trained.run_dir / "snapshot"
    other = replace(config, init=str(snapshot), run_dir=tmp_path / "other")
    with pytest.raises(InvalidValueError, match=r"has patchify 2 and this run 4; set --model.patchify 2"):
        train(replace(other, model=replace(config.model, patchify=4)))
    with pytest.raises(InvalidValueError, match=r"sigma_data 0.5 and this run 0.4; set --loss.sigma_data"):
        train(replace(other, loss=LossConfig(sigma_data=0.4)))


@pytest.mark.parametrize("uncertainty", [False, True])
def test_resumed_run_equals_one_that_never_stopped(config, trained, tmp_path, uncertainty):
    straight = trained
    if uncertainty:
        config = replace(config, loss=LossConfig(uncertainty=True))
        straight = replace(config, run_dir=tmp_path / "straight")
        train(straight)
    train(replace(config, kimg=0.02))
    train(config)
    assert_same(weights(straight.run_dir), weights(config.run_dir), rtol=0, atol=0)


def test_accumulated_gradient_is_that_of_the_whole_batch(config, tmp_path, monkeypatch):
    """Gradients, not weights: Adam makes steps of full size out of gradients that are all rounding."""
    gradients: list[torch.Tensor] = []
    clip = denoiser._Run._clip

    def keep_and_clip(self):
        grads = [p.grad.flatten() for p in self.step.parameters() if p.grad is not None]
        gradients.append(torch.cat(grads).clone())
        return clip(self)

    monkeypatch.setattr(denoiser._Run, "_clip", keep_and_clip)
    config = replace(config, kimg=0.016, preview_mpp=())
    train(config)
    whole, gradients[:] = list(gradients), []
    train(replace(config, accumulation=2, run_dir=tmp_path / "halves"))
    assert len(whole) == len(gradients) >= 4
    for a, b in zip(whole, gradients, strict=True):
        assert a.norm() > 0.01
        assert (a - b).norm() < 1e-4 * a.norm()


def test_interrupt_finishes_the_update_and_can_be_continued(config, trained, monkeypatch):
    report = denoiser._Run._report

    def report_and_interrupt(self, *args):
        report(self, *args)
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(denoiser._Run, "_report", report_and_interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    state = torch.load(config.run_dir / CHECKPOINT, weights_only=True)
    assert state["update"] == 2
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    train(config)
    assert_same(weights(trained.run_dir), weights(config.run_dir), rtol=0, atol=0)


def test_nan_stops_the_run_and_keeps_the_last_good_checkpoint(config, monkeypatch):
    train(replace(config, kimg=0.02))
    before = (config.run_dir / CHECKPOINT).read_bytes()
    draw = denoiser.draw_noise

    def poisoned(*args, **kwargs):
        sigma, noise = draw(*args, **kwargs)
        return sigma, noise * float("nan")

    monkeypatch.setattr(denoiser, "draw_noise", poisoned)
    with pytest.raises(DivergedError, match=r"good checkpoint is kept in .* lower --optim\.lr"):
        train(config)
    assert (config.run_dir / CHECKPOINT).read_bytes() == before


def test_run_folder_of_another_network_is_refused(config):
    train(replace(config, kimg=0.01))
    with pytest.raises(InvalidValueError, match=r"holds a run with model=.*pass another --run_dir"):
        train(replace(config, model=replace(config.model, pixel_channels=8)))


@pytest.mark.slow
def test_two_processes_agree_with_one(config, slides, tmp_path):
    """The gradient of two processes is that of one: the same images, the same noise, the same weights."""
    flags = [
        f"--data.slides={slides}",
        "--data.patches=[{size: 16, batch: 4}]",
        "--data.mpp_range=[0.5,4.0]",
        "--data.workers=0",
        "--model.patchify=2",
        "--model.block_out_channels=[32]",
        "--model.pixel_channels=4",
        "--model.context_channels=4",
        "--kimg=0.024",
        "--validate_every=0.008",
        "--val_images=1",
        "--preview_mpp=[0.5]",
        "--mixed_precision=no",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    # accelerate's own launcher starts a single process on a CPU, unless there is MPI
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    for processes in (1, 2):
        run_dir = tmp_path / f"processes{processes}"
        command = [*launch, f"--nproc_per_node={processes}", "train.py", *flags, f"--run_dir={run_dir}"]
        done = subprocess.run(command, cwd=ROOT, env=environment, timeout=200, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert_same(weights(tmp_path / "processes1"), weights(tmp_path / "processes2"), rtol=1e-3, atol=1e-4)


def test_learning_rate_warms_up_decays_and_cools_down(config):
    optim = OptimConfig(lr=1e-3, warmup=4, decay_from=16, cooldown=0.5, betas=(0.9, 0.99))
    group = [PatchGroup(size=16, batch=1)]
    train(replace(config, data=replace(config.data, patches=group), optim=optim, report_every=1))
    lr = [r["lr"] for r in stats(config.run_dir) if "lr" in r]
    assert lr[:4] == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3])
    assert lr[15] == pytest.approx(1e-3)
    assert lr[24] == pytest.approx(1e-3 * (16 / 25) ** 0.5)
    assert lr[44] == pytest.approx(1e-3 * (16 / 45) ** 0.5 * (1 - 44 / 60) / 0.5)
    assert lr[-1] < 0.05e-3


def test_run_that_never_began_can_be_started_with_other_settings(config, slides, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(SlideError):
        train(replace(config, data=replace(config.data, slides=empty)))
    other = replace(config, kimg=0.004, model=replace(config.model, pixel_channels=8))
    assert load_denoiser(train(other)).config["pixel_channels"] == 8


def test_other_slides_in_a_run_folder_are_warned_of(config, slides, caplog):
    config = replace(config, kimg=0.004)
    train(config)
    assert "index.parquet" not in caplog.text
    train(replace(config, data=replace(config.data, slides=slides / "slide0.tif")))
    assert "continues with the slides of its index.parquet" in caplog.text


def test_without_validation_slides_there_is_no_validation_loss(config, slides, caplog):
    data = replace(config.data, slides=slides / "slide0.tif")
    train(replace(config, kimg=0.008, data=data, preview_mpp=()))
    assert "no slide is kept for validation" in caplog.text
    assert not any("val_loss" in record for record in stats(config.run_dir))


@pytest.mark.filterwarnings("ignore:.*no supported trackers")
@pytest.mark.parametrize("tracker", ["nonesuch", "comet_ml"])
def test_tracker_that_is_not_there_is_refused(config, tracker):
    with pytest.raises(InvalidValueError, match=tracker):
        train(replace(config, tracker=tracker))


def test_ctrl_c_does_not_end_the_loaders_processes(config, tmp_path):
    """A terminal sends it to the whole process group."""
    script = tmp_path / "interrupted.py"
    script.write_text(
        "import os, signal, sys\n"
        "from wsigen.cli import main\n"
        "from wsigen.training import denoiser\n"
        "report = denoiser._Run._report\n"
        "def interrupt(self, *args):\n"
        "    report(self, *args)\n"
        "    os.killpg(0, signal.SIGINT)\n"
        "denoiser._Run._report = interrupt\n"
        "main.train(sys.argv[1:])\n"
    )
    flags = ["--data.patches=[{size: 16, batch: 4}]", "--data.workers=1", "--accumulation=4"]
    flags += ["--model.patchify=2", "--model.block_out_channels=[32]", "--report_every=2", "--kimg=0.4"]
    flags += [
        f"--data.slides={config.data.slides}",
        f"--run_dir={config.run_dir}",
        "--data.mpp_range=[0.5,4]",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(script), *flags],
        env=environment,
        timeout=120,
        start_new_session=True,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert torch.load(config.run_dir / CHECKPOINT, weights_only=True)["update"] == 2


@pytest.fixture
def short(config) -> TrainConfig:
    """Of four updates, without pictures."""
    group = [PatchGroup(size=16, batch=2)]
    return replace(config, data=replace(config.data, patches=group), kimg=0.008, val_images=1, preview_mpp=())


def contents(run_dir):
    return {p.relative_to(run_dir): p.read_bytes() for p in run_dir.rglob("*") if p.is_file()}


def test_second_run_in_a_folder_is_refused_while_the_first_one_trains(short):
    short.run_dir.mkdir()
    with FileLock(short.run_dir / "lock"), pytest.raises(OutputError) as caught:
        train(short)
    reason = "another process is training in this folder; wait for it, or choose another --run_dir"
    assert str(caught.value) == f"{short.run_dir}: {reason}"
    assert [p.name for p in short.run_dir.iterdir()] == ["lock"]
    train(short)
    with FileLock(short.run_dir / "lock", timeout=0):
        pass  # let go of at the end


def test_finished_run_is_left_as_it_is(short, caplog):
    caplog.set_level("INFO")
    train(short)
    assert "finished" not in caplog.text
    before = contents(short.run_dir)
    snapshot = train(replace(short, report_every=1))
    assert f"{short.run_dir} is finished; raise --kimg" in caplog.text
    assert contents(short.run_dir) == before
    assert load_denoiser(snapshot).config["pixel_channels"] == 4


@pytest.mark.parametrize(("every", "counts"), [(0.004, [0.004, 0.008]), (0.003, [0.004, 0.006, 0.008])])
def test_no_image_count_is_validated_twice(short, every, counts):
    train(replace(short, validate_every=every))
    assert [r["kimg"] for r in stats(short.run_dir) if "val" in r] == counts


def test_run_killed_before_its_last_validation_makes_up_for_it(short, monkeypatch):
    def killed(self):
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(denoiser._Run, "_write_validation", killed)
        with pytest.raises(RuntimeError, match="killed"):
            train(short)
    assert not any("val" in r for r in stats(short.run_dir))
    train(short)
    assert [r["kimg"] for r in stats(short.run_dir) if "val" in r] == [0.008]


def test_stats_of_images_seen_again_are_dropped(short):
    short = replace(short, report_every=1)
    train(short)
    path = short.run_dir / "stats.jsonl"
    kept = path.read_bytes()
    path.write_bytes(kept + b'{"kimg": 0.01, "loss": 7.0}\n{"kimg": 0.0')  # killed in the middle of a line
    train(replace(short, kimg=0.012))
    assert path.read_bytes().startswith(kept)
    reports = [r for r in stats(short.run_dir) if "loss" in r]
    assert [r["kimg"] for r in reports] == [0.002, 0.004, 0.006, 0.008, 0.01, 0.012]
    assert all(r["loss"] < 7 for r in reports)


def test_earlier_configuration_is_kept_when_a_run_goes_on_with_another(short):
    train(short)
    first = (short.run_dir / "config.yaml").read_bytes()
    longer = replace(short, kimg=0.012, optim=replace(short.optim, lr=1e-3))
    train(longer)
    assert (short.run_dir / "config-0.008.yaml").read_bytes() == first
    assert b"lr: 0.001" in (short.run_dir / "config.yaml").read_bytes()
    train(longer)  # the same command again
    assert sorted(p.name for p in short.run_dir.glob("config*")) == ["config-0.008.yaml", "config.yaml"]


def test_resumed_run_with_loader_processes_equals_one_that_never_stopped(short, tmp_path):
    straight = replace(short, run_dir=tmp_path / "straight")
    train(straight)
    loaded = replace(short, data=replace(short.data, workers=2))
    train(replace(loaded, kimg=0.004))
    train(loaded)
    assert_same(weights(straight.run_dir), weights(loaded.run_dir), rtol=0, atol=0)


def test_other_processes_wait_while_the_main_one_validates(short, monkeypatch):
    accelerator = setup.make_accelerator(short, short.run_dir)
    assert accelerator.init_handler is not None
    assert accelerator.init_handler.timeout == timedelta(hours=2)
    calls = []

    def run(main):
        run: Any = object.__new__(denoiser._Run)
        run.state = SimpleNamespace(images=8, validated=4)
        run.accelerator = SimpleNamespace(
            is_main_process=main, wait_for_everyone=lambda: calls.append("wait")
        )
        run._write_validation = lambda: calls.append("validate")
        run._keep = lambda: calls.append("keep")
        return run

    for main, expected in ((False, ["wait"]), (True, ["validate", "keep", "wait"])):
        process = run(main)
        process._validate()
        process._validate()  # at the same image count: nothing, on every process alike
        assert calls == expected
        calls.clear()


@pytest.mark.parametrize("snapshot", [False, True])
def test_full_disk_ends_the_run_on_one_line(short, small_disk, monkeypatch, snapshot):
    run_dir = small_disk / "run"
    if snapshot:
        monkeypatch.setattr(RunState, "save", lambda self, run_dir: None)
    with pytest.raises(OutputError, match=r"free some space|make room") as caught:
        train(replace(short, run_dir=run_dir))
    assert caught.value.path == run_dir / ("snapshot" if snapshot else CHECKPOINT)
    assert "\n" not in str(caught.value)
    assert not (run_dir / CHECKPOINT).exists()
    assert not list(run_dir.glob("*.tmp"))
    assert not (run_dir / "snapshot" / WEIGHTS).exists()


def test_strength_of_detail_is_that_of_each_scale(slides):
    """Pictures of one octave of detail more at every halving of µm/px, and slides that have no 0.1 µm/px."""
    data = DataConfig(slides=slides, patches=[PatchGroup(size=32, batch=4)], mpp_range=(0.1, 3.2))
    config = TrainConfig(data=data, model=DenoiserConfig(patchify=2, block_out_channels=(32,)))
    index = load_or_build_index(slides)
    tables, nodes = setup._octave_std(config, index, 1)
    assert nodes == [0.4, 0.8, 1.6, 3.2]
    for at, table in zip(nodes, tables, strict=True):
        around = (at / 2**0.25, at * 2**0.25)
        patches = PatchDataset(index.split("train"), mpp_range=(max(0.5, around[0]), min(3.2, around[1])))
        images, *_ = collate([patches[PatchKey(n, 32)] for n in range(1000, 1064)])
        assert table[0] == pytest.approx(image_std(to_unit(images), 1)[0].tolist(), rel=0.25)


def test_main_size_is_that_of_most_images(config):
    patches = [PatchGroup(size=64, batch=4, weight=2.0), PatchGroup(size=32, batch=16, weight=0.6)]
    assert setup.main_size(replace(config, data=replace(config.data, patches=patches))) == 32
    assert setup.main_size(config) == 16
