"""Command lines as users type them, taken from Markdown and put through the real parsers but not run."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from wsigen.cli import main

ROOT = Path(__file__).parents[1]
SCRIPTS = {"sample": "sample", "sample.py": "sample", "train.py": "train"}


class ParsedError(Exception):
    """Carries what a command's parser returned, in place of running the command."""

    def __init__(self, config: Any, file: Path | None) -> None:
        super().__init__()
        self.config, self.file = config, file


def bash_commands(markdown: str) -> list[str]:
    """The commands of all fenced bash blocks: lines joined, chains taken apart, comments dropped."""
    blocks = re.findall(r"^```bash\n(.*?)^```", markdown, re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [part.strip() for line in lines for part in line.partition(" #")[0].split("&&") if part.strip()]


def inline_commands(markdown: str) -> list[str]:
    """Complete ``sample`` commands in inline code."""
    code = re.findall(r"`((?:[\w./]*/)?sample(?:\.py)? --[^`]+)`", markdown)
    return [c for c in code if "…" not in c]


def split(command: str) -> tuple[str, list[str]] | None:
    """The name in ``wsigen.cli`` and the arguments of a command line; None if it is not one of ours."""
    words = shlex.split(command)
    words[0] = Path(words[0]).name
    while words and words[0] not in (*SCRIPTS, "wsigen"):
        starts = words[0] in ("python", "python3") or words[:2] == ["accelerate", "launch"]
        if not starts or not set(words) & {*SCRIPTS, "wsigen"}:
            return None
        first = min(words.index(w) for w in (*SCRIPTS, "wsigen") if w in words)
        words = words[first:]
    if words[0] == "wsigen":
        return words[1], words[2:]
    return SCRIPTS[words[0]], words[1:]


def parsed(command: str, argv: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Path | None]:
    """What a command's own parser makes of its arguments."""
    assert command in main.COMMANDS
    module = import_module(main.module_name(command))
    real = module.parse

    def stop_after(*args: Any, **kwargs: Any) -> None:
        raise ParsedError(*real(*args, **kwargs))

    with monkeypatch.context() as patch:
        patch.setattr(module, "parse", stop_after)
        patch.chdir(ROOT)
        with pytest.raises(ParsedError) as caught:
            module.run(argv, prog=command)
    return caught.value.config, caught.value.file
