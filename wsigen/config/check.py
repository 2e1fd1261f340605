"""The check that all configurations use for their values."""

from __future__ import annotations

from wsigen.errors import InvalidValueError


def check(ok: bool, flag: str, got: object, expected: str) -> None:
    """Raise an error that names flag, value and what is expected.

    Raises:
        InvalidValueError: unless ``ok``.
    """
    if not ok:
        raise InvalidValueError(f"{flag} must be {expected}, got {got}")
