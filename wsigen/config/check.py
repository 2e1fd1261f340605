"""The check that all configurations use for their values."""

from __future__ import annotations

import math
from numbers import Real

from wsigen.errors import InvalidValueError


def check(ok: bool, flag: str, got: object, expected: str) -> None:
    """Raise an error that names flag, value and what is expected.

    Raises:
        InvalidValueError: unless ``ok``.
    """
    if not ok:
        raise InvalidValueError(f"{flag} must be {expected}, got {got}")


def is_positive(value: object, most: float = math.inf) -> bool:
    """Return whether a value is a number, positive, finite and at most ``most``; texts are not numbers."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    return 0 < float(value) <= most and math.isfinite(float(value))
