"""What all configurations say when a value cannot be."""

from __future__ import annotations

from wsigen.errors import InvalidValueError


def check(ok: bool, flag: str, got: object, expected: str) -> None:
    """Raise an error that names the flag, the value and what would do.

    Raises:
        InvalidValueError: unless ``ok``.
    """
    if not ok:
        raise InvalidValueError(f"{flag} must be {expected}, got {got}")
