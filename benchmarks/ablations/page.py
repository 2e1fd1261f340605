"""What an ablation leaves behind: a page with a table and a figure, and one JSON object."""

from __future__ import annotations

import json
import math
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.ablations.options import Device
from wsigen.files import write_bytes

Row = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        key: of the rows.
        head: what stands above.
        form: of numbers, as for `format`.
    """

    key: str
    head: str
    form: str = ".3g"

    def cell(self, row: Row) -> str:
        """What stands in a row; a dash where there is nothing."""
        value = row.get(self.key)
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return "–"
        return format(value, self.form) if isinstance(value, int | float) else str(value)


@dataclass(frozen=True, kw_only=True)
class Page:
    """The result of one ablation.

    Args:
        name: of the command, and of the files.
        title: of the page.
        text: what was compared and how to read it, Markdown.
        columns: of the table.
        rows: of the table, and more numbers for the JSON.
        notes: what limits the figures.
    """

    name: str
    title: str
    text: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    notes: Sequence[str] = ()

    def markdown(self, argv: Sequence[str], device: Device) -> str:
        """The page.

        Args:
            argv: arguments of the command.
            device: that it ran on.
        """
        lines = [
            f"# {self.title}",
            self.text.strip(),
            table(self.columns, self.rows),
            f"![{self.title}]({self.name}.png)",
            *(f"Note: {note}." for note in dict.fromkeys(self.notes)),
            f"`{command(self.name, argv)}`\n\n{environment(device)}",
        ]
        return "\n\n".join(lines) + "\n"

    def write(self, out: Path, argv: Sequence[str], device: Device) -> dict[str, object]:
        """Write the page beside its figure and print the JSON object as one line.

        Args:
            out: folder.
            argv: arguments of the command.
            device: that it ran on.

        Returns:
            The JSON object.

        Raises:
            OutputError: the folder cannot be written to.
        """
        write_bytes(out / f"{self.name}.md", self.markdown(argv, device).encode())
        result: dict[str, object] = {
            "command": command(self.name, argv),
            "environment": environment(device),
            "rows": [{key: _plain(value) for key, value in row.items()} for row in self.rows],
            "notes": list(dict.fromkeys(self.notes)),
        }
        sys.stdout.write(json.dumps(result, ensure_ascii=False) + "\n")
        return result


def table(columns: Sequence[Column], rows: Sequence[Row]) -> str:
    """A Markdown table; columns in which no row has anything are left out."""
    filled = [c for c in columns if any(c.cell(row) != "–" for row in rows)]
    lines = [" | ".join(c.head for c in filled), "|".join("---" for _ in filled)]
    lines += [" | ".join(c.cell(row) for c in filled) for row in rows]
    return "\n".join(f"| {line} |" if i != 1 else f"|{line}|" for i, line in enumerate(lines))


def command(name: str, argv: Sequence[str]) -> str:
    """The command line that makes a page."""
    return shlex.join(["python", f"benchmarks/ablations/{name}.py", *argv])


def environment(device: Device) -> str:
    """What the figures were measured on, in one line."""
    where = f"{os.cpu_count()} CPU cores ({_processor()}), {torch.get_num_threads()} threads"
    if device.device.type == "cuda":
        where = torch.cuda.get_device_name(device.device)
    precision = str(device.dtype).removeprefix("torch.")
    clock = "CPU time of all threads" if device.device.type == "cpu" else "wall time"
    return f"{where}; PyTorch {torch.__version__}, {precision}; seconds are {clock}."


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _plain(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value if isinstance(value, int | str | None) else str(value)
