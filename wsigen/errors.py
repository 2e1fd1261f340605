"""Errors that a user can act on; each names the thing, the value and the fix.

Commands print them on one line, without traceback; any other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsigen.geometry import Region


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


class DamagedError(SlideError):
    """Stored pixels of a slide that are damaged; others can still be read.

    Args:
        path: the slide.
        what: is wrong, in the words of the decoder.
        level: stored level, 0 is the finest.
        region: that cannot be read, in pixels of the level.
        fix: what to do.
    """

    def __init__(
        self,
        path: str | Path,
        what: str,
        level: int,
        region: Region,
        fix: str = "copy the file again or leave it out",
    ) -> None:
        where = f"x {region.x}, y {region.y}, {region.width} x {region.height} px"
        super().__init__(path, f"damaged at level {level}, {where} ({what}); {fix}")
        self.what, self.level, self.region, self.fix = what, level, region, fix

    def __reduce__(self) -> tuple[type[DamagedError], tuple[str, str, int, Region, str]]:  # pyright: ignore
        return type(self), (str(self.path), self.what, self.level, self.region, self.fix)


class SnapshotError(PathError):
    """Model weights that cannot be loaded, or do not match their configuration."""


class OutputError(PathError):
    """An output that cannot be written, or would overwrite something."""


class DivergedError(WsigenError):
    """Training diverged: the loss is NaN or infinite."""
