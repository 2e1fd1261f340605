"""What is left out since its slide cannot be read there; said once a slide, with the number."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from wsigen.errors import SlideError

log = logging.getLogger(__name__)

Job = TypeVar("Job")
Output = TypeVar("Output")


class Skipped:
    """Collects errors of slides that are damaged somewhere.

    Args:
        what: is read: "patches".
    """

    def __init__(self, what: str = "patches") -> None:
        self._what = what
        self._errors: dict[Path, list[SlideError]] = {}

    def add(self, error: SlideError) -> None:
        """Note one that cannot be read."""
        self._errors.setdefault(error.path, []).append(error)

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Leave out the rest of the block where a slide cannot be read."""
        try:
            yield
        except SlideError as error:
            self.add(error)

    def report(self) -> tuple[str, ...]:
        """Log a warning for each slide; return them."""
        found = []
        for path, errors in self._errors.items():
            first = errors[0].reason
            said = f"{path}: {self._what} that cannot be read, left out: {len(errors)}; the first: {first}"
            log.warning("%s", said)
            found.append(said)
        return tuple(found)


def readable(read: Callable[[Job], Output], jobs: Iterable[Job], what: str) -> Iterator[tuple[Job, Output]]:
    """Read what can be read, one after the other; in the end, warn of the rest.

    Args:
        read: may raise a `SlideError`.
        jobs: of it.
        what: they are: "patches".

    Yields:
        A job and what was read.
    """
    skipped = Skipped(what)
    for job in jobs:
        found: list[Output] = []
        with skipped.guard():
            found.append(read(job))
        yield from ((job, one) for one in found)
    skipped.report()
