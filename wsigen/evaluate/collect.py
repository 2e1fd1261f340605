"""Running a measure so that its cautions and its failures become warnings of the result."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable
from typing import TypeVar

from wsigen.errors import InvalidValueError
from wsigen.evaluate.estimate import MeasureWarning

Value = TypeVar("Value")


def heeding(measure: Callable[[], Value]) -> tuple[Value | None, tuple[str, ...]]:
    """What a measure returns, with the cautions that it uttered.

    Args:
        measure: it may warn with `MeasureWarning`, or refuse with `InvalidValueError`.

    Returns:
        Its value, or None where it refused; and the different cautions, the refusal last.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", MeasureWarning)
        try:
            value, refusal = measure(), None
        except InvalidValueError as error:
            value, refusal = None, f"not measured: {error}"
    cautions = [str(w.message) for w in caught if issubclass(w.category, MeasureWarning)]
    for other in caught:
        if not issubclass(other.category, MeasureWarning):
            warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
    return value, different([*cautions, *([refusal] if refusal else [])])


def different(messages: Iterable[str]) -> tuple[str, ...]:
    """The messages in order, the first of those that differ in numbers alone."""
    found: dict[str, str] = {}
    for message in messages:
        found.setdefault(re.sub(r"[\d.]+", "#", message), message)
    return tuple(found.values())
