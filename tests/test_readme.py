"""What README and docs say can be typed and clicked."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import wsigen
from tests.commands import ROOT, bash_commands, inline_commands, parsed, split
from wsigen.cli import main
from wsigen.config import SampleConfig, TrainConfig, parse_size
from wsigen.pipeline.source import SIZE, STAGES
from wsigen.sampling.spec import first_size

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
README = PAGES[0].read_text(encoding="utf-8")


def _ours() -> list[str]:
    found = [c for page in PAGES for c in _commands(page) if split(c)]
    return list(dict.fromkeys(found))


def _commands(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return bash_commands(text) + inline_commands(text)


@pytest.mark.parametrize("command", _ours())
def test_commands_are_understood(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = split(command)
    assert words is not None
    config, file = parsed(*words, monkeypatch)
    if "--config" in words[1]:
        assert file is not None
    if isinstance(config, SampleConfig):
        stages = STAGES if config.stages is None else config.stages
        assert (
            config.overview or min(first_size(parse_size(config.size or SIZE), stages, config.k).sides) >= 32
        )


def test_every_command_is_shown() -> None:
    shown = {words[0] for c in _ours() if (words := split(c))}
    assert shown == set(main.COMMANDS)


def test_first_two_blocks_are_the_two_commands() -> None:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)[:2]
    assert [language for language, _ in blocks] == ["bash", "bash"]
    run, test = (block.strip().split(" && ") for _, block in blocks)
    assert run[0] == test[0] == "python3 -m venv .venv"
    assert run[1:] == [
        ".venv/bin/pip install -e .",
        ".venv/bin/sample --size 2048 --stages 6 --stain SYN",
    ]
    assert test[1:] == [".venv/bin/pip install -e '.[test]'", ".venv/bin/python -m pytest"]


def test_other_commands_name_files_that_exist() -> None:
    for command in (c for page in PAGES for c in _commands(page)):
        words = shlex.split(command)
        for word in words:
            if re.fullmatch(r"[\w./-]+\.(py|yaml)|\.ci/run", word):
                assert (ROOT / word).is_file(), command


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"<!--.*?-->", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_named_parts_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    folders = "benchmarks|configs|docs|tests|wsigen"
    for name in re.findall(rf"`(?:python )?((?:{folders})/[\w./-]+\.\w+)", text):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"`(wsigen(?:\.\w+)+)`", text):
        assert _exists(name), name


def test_readme_is_short() -> None:
    assert len(README.split()) <= 800


def _exists(name: str) -> bool:
    if name.removeprefix("wsigen.") in wsigen.__all__:
        return True
    path = ROOT / name.replace(".", "/")
    if path.is_dir() or path.with_suffix(".py").is_file():
        return True
    module, attribute = path.parent.with_suffix(".py"), name.rpartition(".")[2]
    defined = rf"^(?:def|class) {attribute}\b"
    return module.is_file() and bool(re.search(defined, module.read_text(encoding="utf-8"), re.MULTILINE))


KEYWORDS = {"class": "class-label"}  # a flag that is a keyword of Python, and its field


def test_options_of_the_table_are_options_with_these_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    default, _ = parsed("sample", [], monkeypatch)
    page = (ROOT / "docs" / "sampling.md").read_text(encoding="utf-8")
    table = page[page.index("| option | default |") :].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    named = {KEYWORDS.get(flag, flag) for row in rows for flag in re.findall(r"--([\w-]+)", row[0])}
    assert named - {"config"} == {name.replace("_", "-") for name in SampleConfig.__dataclass_fields__}
    for row in rows:
        flags, defaults = (
            re.findall(r"--([\w-]+)", row[0]),
            [d.strip() for d in row[1].split(",") if d.strip()],
        )
        fields = [KEYWORDS.get(flag, flag).replace("-", "_") for flag in flags]
        values = [str(getattr(default, name, None)) for name in fields]
        if len(defaults) == len(flags):
            assert [v.replace("None", "synthetic-SEED") for v in values] == defaults, row
        else:
            assert set(values) <= {*defaults, "False", "None"}, row


def test_training_example_leads_to_the_sampling_example(monkeypatch: pytest.MonkeyPatch) -> None:
    train = next(c for c in bash_commands(README) if "train.py" in c)
    words = split(train)
    assert words is not None
    config, file = parsed(*words, monkeypatch)
    assert isinstance(config, TrainConfig)
    assert file is not None
    snapshot = f"--model runs/{file.stem}/snapshot --size"
    sample = next(c for c in bash_commands(README) if snapshot in c)
    words = split(sample)
    assert words is not None
    asked, _ = parsed(*words, monkeypatch)
    trained = [g.size for g in config.data.patches]
    assert first_size(parse_size(asked.size), asked.stages, asked.k).height in trained
    assert config.data.mpp_range[0] <= asked.mpp <= config.data.mpp_range[1]
    assert asked.mpp * asked.k**asked.stages <= config.data.mpp_range[1]
