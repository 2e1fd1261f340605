"""Entry points."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from wsigen import __version__
from wsigen.cli import main
from wsigen.cli.parse import parse
from wsigen.errors import InvalidValueError, SlideError


@dataclass(frozen=True, kw_only=True)
class Options:
    """For tests.

    Args:
        path: where.
        some_number: how many.
        do_it: whether.
    """

    path: Path = Path()
    some_number: int = 1
    do_it: bool = False


def parsed(*argv, **kwargs):
    return parse(Options, argv, prog="x", description="", **kwargs)[0]


@pytest.mark.parametrize("flag", ["--some-number=3", "--some_number=3"])
def test_dashes_and_underscores_are_the_same(flag):
    assert parsed(flag).some_number == 3


def test_switches_need_no_value():
    assert parsed("--do-it").do_it
    assert parsed("--do-it", "--some-number", "2") == Options(do_it=True, some_number=2)
    assert not parsed("--do-it", "false").do_it
    assert parsed("--do-it=true").do_it


def test_positional():
    assert parsed("here", "--some-number", "2", positional="path").path == Path("here")
    assert parsed("--path", "there", positional="path").path == Path("there")
    assert parsed("--some-number", "2", "here", positional="path") == Options(
        path=Path("here"), some_number=2
    )
    assert parsed("--some-number=2", "here", positional="path").path == Path("here")
    assert parsed("--do-it", "here", positional="path") == Options(path=Path("here"), do_it=True)


def test_values_with_dashes_stay_as_they_are():
    assert parsed("--path", "a-b_c").path == Path("a-b_c")
    assert parsed("--some-number", "-2").some_number == -2


@pytest.mark.parametrize("argv", [["--nonsense", "1"], ["--some-number", "many"], ["stray"]])
def test_what_cannot_be_parsed_is_one_line(argv):
    with pytest.raises(InvalidValueError) as error:
        parsed(*argv)
    assert "\n" not in str(error.value)
    assert "see x --help" in str(error.value)


def fake_command(monkeypatch, error):
    def run(argv, prog):
        raise error

    monkeypatch.setattr(main, "import_module", lambda name: SimpleNamespace(run=run))


@pytest.mark.parametrize(
    ("error", "code"),
    [(SlideError("a.svs", "is no slide"), 2), (InvalidValueError("bad"), 2), (KeyboardInterrupt(), 130)],
)
def test_user_errors_are_one_line_without_traceback(monkeypatch, capsys, error, code):
    fake_command(monkeypatch, error)
    with pytest.raises(SystemExit) as stopped:
        main.main(["sample"])
    assert stopped.value.code == code
    err = capsys.readouterr().err
    assert err == ("" if code == 130 else f"wsigen sample: error: {error}\n")


def test_bugs_keep_their_traceback(monkeypatch):
    fake_command(monkeypatch, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        main.main(["sample"])


def test_usage_version_and_unknown_command(capsys):
    with pytest.raises(SystemExit) as stopped:
        main.main(["--help"])
    assert stopped.value.code == 0
    assert "sample" in capsys.readouterr().out
    main.main(["--version"])
    assert capsys.readouterr().out == f"{__version__}\n"
    with pytest.raises(SystemExit) as stopped:
        main.main(["samples"])
    assert stopped.value.code == 2
    assert "no command 'samples'; use one of sample" in capsys.readouterr().err


def test_the_three_ways_to_sample_are_one(monkeypatch):
    seen = []
    monkeypatch.setattr(main, "run", lambda command, argv, prog: seen.append((command, list(argv))))
    monkeypatch.setattr(sys, "argv", ["sample", "--seed", "1"])
    main.sample()
    main.main(["sample", "--seed", "1"])
    assert seen == [("sample", ["--seed", "1"])] * 2
