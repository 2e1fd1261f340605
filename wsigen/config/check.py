"""Checks that configurations use for their values."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from numbers import Real
from pathlib import Path

from wsigen.errors import InvalidValueError
from wsigen.geometry import Region


def check(ok: bool, flag: str, got: object, expected: str) -> None:
    """Raise an error that names flag, value and what is expected.

    Raises:
        InvalidValueError: unless ``ok``.
    """
    if not ok:
        raise InvalidValueError(f"{flag} must be {expected}, got {got}")


def is_positive(value: object, most: float = math.inf) -> bool:
    """Return whether a value is a number, positive, finite and at most ``most``; texts are not numbers."""
    if not isinstance(value, Real) or isinstance(value, bool):  # True is a Real
        return False
    return 0 < float(value) <= most and math.isfinite(float(value))


def check_mpp(mpp: object, flag: str) -> None:
    """Raise unless µm/px are a number in (0, 1000], or None.

    Raises:
        InvalidValueError: names the flag, the value and what is expected.
    """
    check(mpp is None or is_positive(mpp, 1000), flag, repr(mpp), "a number in (0, 1000] µm/px")


def as_list(paths: str | Path | Sequence[str | Path] | None) -> list[str]:
    """Return one or several paths, or none, as a list."""
    if paths is None:
        return []
    return [str(p) for p in ([paths] if isinstance(paths, str | Path) else paths)]


def parse_region(text: str) -> Region:
    """Parse X,Y,WIDTH,HEIGHT.

    Raises:
        InvalidValueError: it is not four numbers, or the region is empty.
    """
    match = re.fullmatch(r"\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*", text)
    x, y, width, height = map(int, match.groups()) if match else (0, 0, 0, 0)
    check(bool(width and height), "--region", repr(text), "X,Y,WIDTH,HEIGHT in px, such as 1024,2048,512,512")
    return Region(y, x, height, width)
