"""From flags and YAML to the dataclasses of ``wsigen.config``: the only importer of the config parser."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from jsonargparse import ArgumentError, ArgumentParser

from wsigen.errors import InvalidValueError

Config = TypeVar("Config")

_TRUTH = ("true", "false")
_KEYWORDS = {"class": "class_label"}
"""Flags that are keywords of Python, and the fields that they fill."""


def parse(
    config: type[Config],
    argv: Sequence[str],
    *,
    prog: str,
    description: str,
    positional: str | None = None,
    dashes: bool = True,
) -> tuple[Config, Path | None]:
    """Fill a configuration dataclass from ``--config FILE`` and flags; flags win.

    Args:
        config: the dataclass.
        argv: arguments after the command's name. ``--batch-size`` and ``--batch_size`` are the same flag.
        prog: name of the command, for the help text.
        description: one paragraph, for the help text.
        positional: field that is given without a flag.
        dashes: spell flags with dashes in help and messages.

    Returns:
        The dataclass, and the config file if one was given.

    Raises:
        InvalidValueError: for unknown flags or keys and for values of the wrong type, naming them.
    """
    parser = ArgumentParser(prog=prog, description=description, exit_on_error=False)
    parser.add_argument("--config", action="config", help="YAML file with any of the options below")
    parser.add_class_arguments(config, as_group=False)
    flags = {f"--{name}": f"--{flag}" for flag, name in _KEYWORDS.items()}
    if dashes:
        for action in parser._actions:  # for --help and messages; both spellings are understood anyway
            action.option_strings = [flags.get(s, s).replace("_", "-") for s in action.option_strings]
    try:
        namespace = parser.parse_args(_normalised(argv, config, positional))
    except ArgumentError as error:
        raise InvalidValueError(_one_line(str(error), prog)) from error
    values: dict[str, Any] = dict(vars(parser.instantiate(namespace)))
    files = values.pop("config", None) or []
    return config(**values), Path(str(files[-1])) if files else None


def gathered(argv: Sequence[str], flags: Sequence[str]) -> list[str]:
    """Return the arguments with all paths of a flag, which shells expand from a pattern, as one JSON list.

    Args:
        argv: such as ``--real a.tif b.tif --seed 1 --real c.tif``.
        flags: that take several paths, such as ``--real``.
    """
    out: list[str] = []
    lists: dict[str, list[str]] = {}
    flag = None
    for argument in argv:
        if argument.startswith("--"):
            name, equals, value = argument.partition("=")
            name = name.replace("_", "-")
            flag = name if name in flags and not equals else None
            if name in flags:
                lists.setdefault(name, []).extend([value] if equals else [])
                continue
        if flag is None or argument.startswith("--"):
            out.append(argument)
        else:
            lists[flag].append(argument)
    given = [[name, paths[0] if len(paths) == 1 else json.dumps(paths)] for name, paths in lists.items()]
    return [*out, *(word for pair in given for word in pair)]


def _normalised(argv: Sequence[str], config: type[Any], positional: str | None) -> list[str]:
    """The arguments as the parser wants them: ``--dry-run`` becomes ``--dry_run=true``."""
    switches = {f.name for f in fields(config) if f.type in (bool, "bool")}
    out: list[str] = []
    given: list[str] = []
    for i, argument in enumerate(argv):
        if not argument.startswith("--"):
            follows_flag = i > 0 and _takes(argv[i - 1], argument, switches)
            (out if follows_flag or not positional else given).append(argument)
            continue
        flag, equals, value = argument[2:].partition("=")
        flag = flag.replace("-", "_")
        flag = _KEYWORDS.get(flag, flag)
        alone = not equals and (i + 1 == len(argv) or argv[i + 1] not in _TRUTH)
        out.append(f"--{flag}=true" if flag in switches and alone else f"--{flag}{equals}{value}")
    if given:
        out += [f"--{positional}", _listed(given, config, positional)]
    return out


def _listed(given: list[str], config: type[Any], positional: str | None) -> str:
    """Return the values as the parser takes them for one flag: several, or those of a list, as JSON."""
    (kind,) = (str(f.type) for f in fields(config) if f.name == positional)
    if len(given) == 1 and not re.fullmatch(r"list\[\w+\]", kind):
        return given[0]
    if "list[" not in kind:
        raise InvalidValueError(f"{positional} must be one path, got {', '.join(given)}; put it in quotes")
    return json.dumps(given)


def _takes(flag: str, value: str, switches: set[str]) -> bool:
    """Whether ``value`` belongs to the argument before it."""
    if not flag.startswith("-") or "=" in flag:
        return False
    return flag[2:].replace("-", "_") not in switches or value in _TRUTH


def _one_line(message: str, prog: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return f"{' '.join(lines)}; see {prog} --help"
