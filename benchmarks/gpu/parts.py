"""The parts of a run on a machine that is lent for minutes: limits, processes, logs, and what comes back."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PIECE, PIECES = 15 * 2**20, 4
"""Bytes of a file that comes back, and how many there may be."""


class PartError(Exception):
    """Why a part has no result."""


class Run:
    """One call: its clock, its folders, its processes and its results.

    Args:
        out: what comes back.
        work: everything else.
        minutes: for all parts together.
        env: added to the environment of every process.
    """

    def __init__(self, out: Path, work: Path, minutes: float, env: dict[str, str]) -> None:
        self.out, self.work, self.env = out, work, os.environ | env
        self.started = time.monotonic()
        self.deadline = self.started + 60 * minutes
        self.results: dict[str, Any] = {"parts": {}}
        self.processes: list[subprocess.Popen[bytes]] = []
        for folder in (out, work / "logs"):
            folder.mkdir(parents=True, exist_ok=True)

    def part(self, name: str, limit: float, make: Callable[[float], dict[str, Any]]) -> bool:
        """Do something within a limit, and keep its result, or why there is none.

        Args:
            name: in the results.
            limit: seconds.
            make: called with the seconds that are left for it.

        Returns:
            Whether it succeeded.
        """
        start, found = time.monotonic(), {}
        seconds = min(limit, self.deadline - start)
        try:
            if seconds < 1:
                raise PartError("no time left")
            found = make(seconds)
        except Exception as error:  # a part that fails must not take the others with it
            found = {"error": f"{type(error).__name__}: {error}"}
        self.results["parts"][name] = {"took": round(time.monotonic() - start, 1), **found}
        sys.stdout.write(f"[{time.monotonic() - self.started:5.0f} s] {name}: {json.dumps(found)[:2000]}\n")
        sys.stdout.flush()
        self.bring_back()
        return "error" not in found

    def start(self, name: str, words: Sequence[str], **env: str) -> subprocess.Popen[bytes]:
        """Start a process in a session of its own; what it prints goes into a log."""
        with (self.work / "logs" / f"{name}.log").open("ab") as log:
            log.write(f"$ {shlex.join(words)}\n".encode())
            log.flush()
            process = subprocess.Popen(
                words, cwd=ROOT, env=self.env | env, stdout=log, stderr=log, start_new_session=True
            )
        self.processes.append(process)
        return process

    def command(self, name: str, words: Sequence[str], limit: float) -> tuple[float, str]:
        """Run a process to its end; its seconds and its last line.

        Raises:
            PartError: it fails, or takes longer than the limit.
        """
        start = time.monotonic()
        process = self.start(name, words)
        with suppress(subprocess.TimeoutExpired):
            process.wait(limit)
        seconds, lines = time.monotonic() - start, self.log(name)
        if process.poll() != 0:
            why = "not done" if process.poll() is None else f"exit {process.returncode}"
            end(process)
            raise PartError(f"{why} after {seconds:.0f} s; {' | '.join(lines[-4:])}")
        return seconds, lines[-1]

    def log(self, name: str) -> list[str]:
        """The lines of a log."""
        text = (self.work / "logs" / f"{name}.log").read_text(encoding="utf-8", errors="replace")
        return [line for line in text.replace("\r", "\n").splitlines() if line.strip()] or [""]

    def bring_back(self) -> None:
        """Put everything that exists so far into the folder that comes back."""
        self.results["seconds"] = round(time.monotonic() - self.started, 1)
        archive, room = self.work / "back.tar", PIECE * PIECES - 2**20
        left_out = []
        with tarfile.open(archive, "w") as tar:
            for path in self._files():
                takes = path.stat().st_size + 1024
                if takes > room:
                    left_out.append(str(path.relative_to(self.work)))
                    continue
                room -= takes
                tar.add(path, path.relative_to(self.work))
        self.results["left_out"] = left_out
        with archive.open("rb") as file:
            for number, piece in enumerate(iter(lambda: file.read(PIECE), b"")):
                _replace(self.out / f"back.tar.{number}", piece)
        _replace(self.out / "results.json", (json.dumps(self.results, indent=1) + "\n").encode())

    def _files(self) -> list[Path]:
        """What goes into the archive, the dearest first."""
        found = sorted(p for p in (self.work / "model").rglob("*") if p.is_file())
        for run_dir in sorted((self.work / "runs").glob("*")):
            found += [p for name in ("stats.jsonl", "config.yaml") if (p := run_dir / name).is_file()]
            kinds = {p.name.partition("-")[0] for p in run_dir.glob("*.png")}
            found += [sorted(run_dir.glob(f"{kind}-*.png"))[-1] for kind in sorted(kinds)]
        found += sorted(p for p in (self.work / "slides").glob("*") if p.suffix in (".jpg", ".json"))
        return found + sorted((self.work / "logs").glob("*"))

    def close(self) -> None:
        """End what still runs."""
        for process in self.processes:
            end(process)


def _replace(path: Path, data: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    part.replace(path)


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and those that it started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(10)
