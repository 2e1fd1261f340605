"""Errors that a user can act on: each names the thing, the value and the fix.

Commands print these on one line, without a traceback; any other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

from pathlib import Path


class WsigenError(Exception):
    """Base of every error that is the input's or the machine's, not the program's."""


class InvalidValueError(WsigenError, ValueError):
    """An argument or a configuration value that cannot be used."""


class PathError(WsigenError):
    """Something is wrong with one file or folder.

    Args:
        path: the file or folder.
        reason: what is wrong with it, and what to do.
    """

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(path, reason)
        self.path = Path(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"

    def __reduce__(self) -> tuple[type[PathError], tuple[str, str]]:
        return type(self), (str(self.path), self.reason)  # so that it survives the way from a worker process


class SlideError(PathError):
    """A slide that cannot be read."""


class MissingMppError(SlideError):
    """A slide without a known pixel size (µm/px)."""


class SnapshotError(PathError):
    """Model weights that cannot be loaded, or that do not fit their configuration."""


class OutputError(PathError):
    """An output that cannot be written, or that would overwrite something."""


class DivergedError(WsigenError):
    """Training produced a loss that is not a number."""
