"""A run on a lent machine keeps what it has whatever fails, and its trainings end on time."""

from __future__ import annotations

import json
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import parts, training
from tests.pipeline.models import small_snapshot
from wsigen.nn.denoiser import Denoiser
from wsigen.nn.model import load_model
from wsigen.nn.upscaler import Upscaler


@pytest.fixture
def run(tmp_path: Path) -> parts.Run:
    return parts.Run(tmp_path / "out", tmp_path / "work", 5.0, {"GIVEN": "7"})


def results(run: parts.Run) -> dict[str, Any]:
    return json.loads((run.out / "results.json").read_text(encoding="utf-8"))


def archived(run: parts.Run, to: Path) -> dict[str, bytes]:
    pieces = sorted(run.out.glob("back.tar.*"))
    (to / "back.tar").write_bytes(b"".join(p.read_bytes() for p in pieces))
    with tarfile.open(to / "back.tar") as tar:
        return {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]


def test_part_that_fails_is_told_of_and_the_next_is_done(run: parts.Run) -> None:
    def fail(seconds: float) -> dict[str, Any]:
        raise ValueError("no such thing")

    assert not run.part("one", 10, fail)
    assert run.part("two", 10, lambda seconds: {"given": seconds})
    found = results(run)["parts"]
    assert found["one"]["error"] == "ValueError: no such thing"
    assert found["two"]["given"] == 10


def test_no_part_gets_more_time_than_is_left(run: parts.Run) -> None:
    run.deadline = time.monotonic() + 5
    run.part("one", 60, lambda seconds: {"given": seconds})
    run.deadline = time.monotonic()
    assert not run.part("two", 60, lambda seconds: {"given": seconds})
    found = results(run)["parts"]
    assert 3 < found["one"]["given"] <= 5
    assert found["two"]["error"] == "PartError: no time left"


def test_command_gives_its_last_line(run: parts.Run) -> None:
    code = "import os; print('first'); print(os.environ['GIVEN'])"
    seconds, last = run.command("echo", [sys.executable, "-c", code], 60)
    assert last == "7"
    assert seconds > 0


def test_command_that_fails_says_why(run: parts.Run) -> None:
    with pytest.raises(parts.PartError, match=r"exit 3 after .*; .* \| reason"):
        run.command("bad", [sys.executable, "-c", "print('reason'); raise SystemExit(3)"], 60)


def test_command_that_hangs_is_ended_with_its_children(run: parts.Run) -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
    with pytest.raises(parts.PartError, match="not done after"):
        run.command("hang", [sys.executable, "-c", code], 1.5)
    assert run.processes[-1].poll() is not None


def test_archive_comes_back_in_pieces(
    run: parts.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "PIECE", 2**20)
    weights = bytes(range(256)) * 6000
    (run.work / "model" / "upscaler").mkdir(parents=True)
    (run.work / "model" / "upscaler" / "w.safetensors").write_bytes(weights)
    run_dir = run.work / "runs" / "upscaler"
    run_dir.mkdir(parents=True)
    for name in ("stats.jsonl", "checkpoint.pt", "chains-0001.0kimg.png", "chains-0002.0kimg.png"):
        (run_dir / name).write_text(name, encoding="utf-8")
    (run.work / "slides").mkdir()
    (run.work / "slides" / "he_HE.jpg").write_text("picture", encoding="utf-8")
    run.bring_back()
    assert {p.name for p in run.out.iterdir()} == {"back.tar.0", "back.tar.1", "results.json"}
    assert max(p.stat().st_size for p in run.out.iterdir()) <= 2**20
    found = archived(run, tmp_path)
    assert found.pop("model/upscaler/w.safetensors") == weights
    assert sorted(found) == [
        "runs/upscaler/chains-0002.0kimg.png",
        "runs/upscaler/stats.jsonl",
        "slides/he_HE.jpg",
    ]
    assert results(run)["left_out"] == []


def test_what_is_too_large_to_come_back_is_named(run: parts.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PIECE", 2**19)
    (run.work / "model").mkdir()
    (run.work / "model" / "a.bin").write_bytes(bytes(2**20))
    (run.work / "logs" / "x.log").write_text("x", encoding="utf-8")
    run.bring_back()
    assert results(run)["left_out"] == ["model/a.bin"]
    assert [p.name for p in run.out.glob("back.tar.*")] == ["back.tar.0"]


class Fake:
    """A training whose images follow the clock: ``alone`` a second, ``together`` beside another."""

    def __init__(self, name: str, alone: float, together: float) -> None:
        self.name, self.alone, self.together = name, alone, together
        self.others: list[Fake] = []
        self.paused, self.running, self.process = False, True, None
        self.seen, self.at = 0.0, time.monotonic()
        self.flags: list[Sequence[str]] = []

    @property
    def images(self) -> float:
        now = time.monotonic()
        if self.running and not self.paused:
            beside = any(not o.paused and o.running for o in self.others)
            self.seen += (self.together if beside else self.alone) * (now - self.at)
        self.at = now
        return self.seen

    @property
    def alive(self) -> bool:
        return self.running

    def pause(self, paused: bool) -> None:
        _ = self.images
        self.paused = paused

    def ask_to_stop(self) -> None:
        _ = self.images
        self.running = False

    def start(self, *flags: str) -> None:
        self.running, self.at = True, time.monotonic()
        self.flags.append(flags)


def pair(share: float) -> list[Any]:
    a, b = Fake("a", 100, 100 * share), Fake("b", 1000, 1000 * share)
    a.others, b.others = [b], [a]
    return [a, b]


@pytest.mark.parametrize("share", [0.8, 0.3])
def test_order_is_decided_by_what_both_gain(share: float) -> None:
    found = training.compare_orders(pair(share), 0.6)
    assert found["alone"]["a"] == pytest.approx(100, rel=0.05)
    assert found["alone"]["b"] == pytest.approx(1000, rel=0.05)
    assert found["gain"] == pytest.approx(2 * share, rel=0.05)


def test_after_comparing_all_go_on() -> None:
    both = pair(0.5)
    training.compare_orders(both, 0.3)
    assert not any(t.paused for t in both)


def test_training_ends_on_time_at_a_falling_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "CLOSING", 0.2)
    both, kept = pair(0.5), []
    until = time.monotonic() + 3
    targets = training.finish(both, until, 0.0, lambda: kept.append(time.monotonic()))
    assert time.monotonic() == pytest.approx(until, abs=1.0)
    assert len(kept) == 1
    assert kept[0] < until
    for one, rate in zip(both, (50, 500), strict=True):
        ((kimg, cooldown),) = one.flags
        assert float(kimg.removeprefix("--kimg=")) * 1000 == pytest.approx(rate * 2.8, rel=0.25)
        assert targets[one.name] == pytest.approx(rate * 2.8, rel=0.25)
        assert float(cooldown.removeprefix("--optim.cooldown=")) == pytest.approx(1.0 / 2.8, rel=0.35)
    assert not any(t.running for t in both)


def test_reports_of_a_training(run: parts.Run, tmp_path: Path) -> None:
    one = training.Training(run, "upscaler", [], tmp_path)
    assert (one.images, one.facts()) == (0.0, {"images": 0, "exit": None})
    line = {"kimg": 0.5, "update": 5, "loss": 2.0, "lr": 1.0, "images_per_second": 10.0}
    more = {**line, "kimg": 1.0, "update": 10, "loss": 1.0, "images_per_second": 30.0}
    lines = [json.dumps({**one, "data_wait_fraction": 0.25}) for one in (line, more)]
    lines.append(json.dumps({"kimg": 1.0, "val_loss": 0.125, "val": {}}))
    (tmp_path / "stats.jsonl").write_text("\n".join([*lines, '{"kimg": 1.5, "upd']), encoding="utf-8")
    assert one.images == 1000
    assert one.facts() == {
        "exit": None,
        "images": 1000,
        "updates": 10,
        "images_per_second": 30.0,
        "data_wait_fraction": 0.25,
        "last": {"loss": 1.0, "images_per_second": 30.0, "data_wait_fraction": 0.25},
        "val": 0.125,
    }


def test_training_begins_with_a_network_of_its_own_shape_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    Upscaler(channels=(8, 16), blocks=(1, 1), head_channels=(8, 8)).save_pretrained(str(tmp_path / "u"))
    config = tmp_path / "c.yaml"
    shape = (
        "model: {channels: [8, 16], blocks: [%d, 1], head_channels: [8, 8]}\ndata: {patches: [{size: 32}]}"
    )
    config.write_text("method: upscaler\n" + shape % 1, encoding="utf-8")
    assert training.beginning("upscaler", config, str(tmp_path / "u")) == [f"--init={tmp_path / 'u'}"]
    config.write_text("method: upscaler\n" + shape % 2, encoding="utf-8")
    assert training.beginning("upscaler", config, str(tmp_path / "u")) == []
    denoiser = small_snapshot(tmp_path / "d")
    config.write_text("method: upscaler\n" + shape % 1, encoding="utf-8")
    assert training.beginning("upscaler", config, str(denoiser)) == []


def test_shipped_configuration_begins_with_the_bundled_denoiser() -> None:
    config = Path(__file__).parents[2] / "benchmarks" / "gpu" / "denoiser.yaml"
    (flag,) = training.beginning("denoiser", config, "default")
    assert flag.startswith("--init=")


def test_networks_are_kept_in_half_precision_beside_the_models_own(run: parts.Run, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Upscaler(channels=(8, 16), blocks=(1, 1), head_channels=(8, 8))
    net.save_pretrained(str(run.work / "runs" / "upscaler" / "snapshot"))
    own = small_snapshot(tmp_path / "d")
    training.save_networks(run, str(own))
    found = load_model(run.work / "model")
    assert found.upscaler is not None
    for name, value in net.state_dict().items():
        assert torch.equal(found.upscaler.state_dict()[name], value.half().float()), name
    before = Denoiser.from_pretrained(str(own), low_cpu_mem_usage=False).state_dict()
    assert all(torch.equal(v, before[k].half().float()) for k, v in found.denoiser.state_dict().items())
    assert "model/upscaler/config.json" in archived(run, tmp_path)
