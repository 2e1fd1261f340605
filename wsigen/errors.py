"""Errors that a user can act on; each names the thing, the value and the fix.

Commands print them on one line, without traceback; any other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

from pathlib import Path


class WsigenError(Exception):
    """Base of all errors caused by the input or the machine, not by the program."""


class InvalidValueError(WsigenError, ValueError):
    """An invalid argument or configuration value."""


class PathError(WsigenError):
    """An error about one file or folder.

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
        # Exceptions are pickled by their args, which must be those of __init__ to come from a worker process.
        return type(self), (str(self.path), self.reason)


class SlideError(PathError):
    """A slide that cannot be read."""


class MissingMppError(SlideError):
    """A slide of unknown µm/px."""


class AmbiguousSlideError(SlideError):
    """A slide file that can be read in several ways, of which the user has to choose."""


class SnapshotError(PathError):
    """Model weights that cannot be loaded, or do not match their configuration."""


class OutputError(PathError):
    """An output that cannot be written, or would overwrite something."""


class DivergedError(WsigenError):
    """Training diverged: the loss is NaN or infinite."""
