"""``--help`` of every command is as in its snapshot; ``UPDATE_SNAPSHOTS=1`` takes new ones."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from wsigen.cli import main
from wsigen.config import STAIN_METHODS

SNAPSHOTS = Path(__file__).parent / "snapshots"
UPDATE = os.environ.get("UPDATE_SNAPSHOTS") == "1"
PAGES = {
    "wsigen": [],
    **{name: [name] for name in main.COMMANDS},
    **{f"corpus-{action}": ["corpus", action] for action in ("make", "verify", "label", "export")},
    **{f"train-{method}": ["train", "--method", method] for method in STAIN_METHODS},
    **{f"study-{step}": ["study", step] for step in ("make", "serve", "report")},
}


def _help(argv: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setenv("COLUMNS", "110")
    monkeypatch.setenv("NO_COLOR", "1")
    with pytest.raises(SystemExit) as caught:
        main.main(argv)
    assert caught.value.code == 0
    return capsys.readouterr().out


def _comparable(text: str) -> str:
    """Words only: Python versions differ in line breaks, and from 3.13 on name an option's value once."""
    return re.sub(r"(--[\w.]+) \[ITEM,\.\.\.\], ", r"\1, ", " ".join(text.split()))


@pytest.mark.parametrize("name", PAGES)
def test_help_is_as_in_the_snapshot(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = SNAPSHOTS / f"{name}.txt"
    text = _help([*PAGES[name], "--help"], monkeypatch, capsys)
    if UPDATE:
        path.write_text(text, encoding="utf-8")
    assert _comparable(text) == _comparable(path.read_text(encoding="utf-8")), (
        "the help text changed; look at it, then run UPDATE_SNAPSHOTS=1 pytest tests/test_help.py"
    )


def test_no_snapshot_is_left_over() -> None:
    assert {p.stem for p in SNAPSHOTS.glob("*.txt")} == PAGES.keys()


def test_sample_is_wsigen_sample(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    long = _help(["sample", "--help"], monkeypatch, capsys)
    with pytest.raises(SystemExit):
        main.sample(["--help"])
    short = capsys.readouterr().out
    assert _comparable(short) == _comparable(long).replace("usage: wsigen sample", "usage: sample")


def test_dashes_and_underscores_are_the_same_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.commands import parsed

    dashes, _ = parsed("sample", ["--dry-run", "--batch-size", "4", "--layout=generic"], monkeypatch)
    underscores, _ = parsed("sample", ["--dry_run", "--batch_size=4", "--layout", "generic"], monkeypatch)
    assert dashes == underscores
    assert (dashes.dry_run, dashes.batch_size, dashes.layout) == (True, 4, "generic")


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["sample", "--height", "2048"], "height"),
        (["sample", "--size", "big"], "size"),
        (["sample", "--layout", "svs"], "layout"),
        (["train", "--data.slides", "x", "--optim.learning_rate", "1"], "learning_rate"),
        (["train"], "data.slides"),
        (["paint"], "paint"),
    ],
)
def test_mistakes_are_one_line_that_names_the_flag(
    argv: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main.main(argv)
    error = capsys.readouterr().err.strip()
    assert caught.value.code == 2
    assert named in error
    assert "\n" not in error
    assert "Traceback" not in error
