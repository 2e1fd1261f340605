"""What docstrings, comments and docs name as `wsigen.…` exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.commands import ROOT

FILES = [*ROOT.glob("wsigen/**/*.py"), *ROOT.glob("docs/**/*.md"), ROOT / "README.md"]


def named(file: Path) -> set[str]:
    return set(re.findall(r"`(wsigen(?:\.\w+)+)", file.read_text(encoding="utf-8")))


def exists(name: str) -> bool:
    """Whether there is such a module, or a module whose text defines or imports what follows."""
    parts = name.split(".")
    path = ROOT.joinpath(*parts)
    if path.is_dir() or path.with_suffix(".py").is_file():
        return True
    for i in range(len(parts) - 1, 0, -1):
        whole = ROOT.joinpath(*parts[:i])
        source = next((p for p in (whole.with_suffix(".py"), whole / "__init__.py") if p.is_file()), None)
        if source is not None:
            text = source.read_text(encoding="utf-8")
            if i == 1:  # the public names, which `wsigen` imports on first use
                text += (ROOT / "wsigen" / "api.py").read_text(encoding="utf-8")
            return all(re.search(rf"\b{part}\b", text) for part in parts[i:])
    return False


@pytest.mark.parametrize("name", sorted({name for file in FILES for name in named(file)}))
def test_exists(name):
    assert exists(name)


@pytest.mark.parametrize("name", ["wsigen.stain.snapshot.load_stainer", "wsigen.api.Nothing"])
def test_what_is_missing_is_seen(name):
    assert not exists(name)
