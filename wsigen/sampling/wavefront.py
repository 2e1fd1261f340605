"""Which row of patches comes next. The order is data: what denoises the patches does not know it.

A row of patches of step i may be denoised once step i - 1 has finished every canvas row that it reads. Any
order that respects this gives the same canvas, bit for bit, because patches of one step share nothing. The
unit here is a row of patches, since steps advance from the top down.

* "steps": each step over the whole canvas before the next begins.
* "wavefront": always advance the latest step that can advance. Each canvas row is then at exactly one
  step, rows are finished in order, and only those between the last step's front and the first's are alive.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from wsigen.errors import InvalidValueError
from wsigen.sampling.shift import Lines

ORDERS = ("wavefront", "steps")


@dataclass(frozen=True)
class RowTask:
    """Denoise one row of patches.

    Args:
        step: of the solver.
        row: index of the patch row in that step's grid.
        keep_from: no task from this one on reads a canvas row above; what holds the canvas may forget them.
    """

    step: int
    row: int
    keep_from: int


def first_rows(lines: Sequence[Lines], from_row: int = 0) -> list[int]:
    """The topmost patch row of each step that canvas rows ≥ ``from_row`` of the result depend on.

    Everything below belongs to the cone as well, so this is all that a resumed run must know.

    Args:
        lines: the rows of each step's grid.
        from_row: first canvas row that is wanted.
    """
    needed, first = from_row, []
    for step in reversed(lines):
        first.append(step.cell_of(needed))
        needed = step.read_start(first[-1])
    return first[::-1]


def row_tasks(lines: Sequence[Lines], order: str = "wavefront", from_row: int = 0) -> Iterator[RowTask]:
    """All rows of patches that canvas rows ≥ ``from_row`` depend on, in an order that respects dependencies.

    Args:
        lines: the rows of each step's grid.
        order: "wavefront" or "steps".
        from_row: rows above are finished already (an interrupted run goes on here).

    Raises:
        InvalidValueError: no such order.
    """
    if order not in ORDERS:
        raise InvalidValueError(f"schedule must be one of {', '.join(ORDERS)}, got {order!r}")
    if from_row >= lines[0].extent:
        return
    first = first_rows(lines, from_row)
    front = _Front(lines, first)
    for step in _by_step(front) if order == "steps" else _by_wavefront(front):
        yield RowTask(step, front.next_row[step], front.keep_from())
        front.next_row[step] += 1


class _Front:
    """How far each step has come."""

    def __init__(self, lines: Sequence[Lines], first: list[int]) -> None:
        self.lines, self.first, self.next_row = lines, first, list(first)

    def unfinished(self, step: int) -> bool:
        return self.next_row[step] < self.lines[step].count

    def ready(self, step: int) -> bool:
        """Whether the step's next row may be denoised: the step before is done with all that it reads."""
        if not self.unfinished(step):
            return False
        if step == 0 or not self.unfinished(step - 1):
            return True
        above = self.lines[step - 1]
        return above.start(self.next_row[step - 1]) >= self.lines[step].read_end(self.next_row[step])

    def keep_from(self) -> int:
        return min(self._reads(step) for step in range(len(self.lines)) if self.unfinished(step))

    def _reads(self, step: int) -> int:
        # Rows of the upper halo are saved by the task above (`wsigen.sampling.canvas`), except at the
        # first one.
        row, lines = self.next_row[step], self.lines[step]
        return lines.read_start(row) if row == self.first[step] else max(lines.start(row), 0)


def _by_step(front: _Front) -> Iterator[int]:
    for step in range(len(front.lines)):
        while front.unfinished(step):
            yield step


def _by_wavefront(front: _Front) -> Iterator[int]:
    last = len(front.lines) - 1
    step = 0
    while front.unfinished(last):
        # Only the step after the one just advanced can have become ready above it.
        step = min(step + 1, last)
        while not front.ready(step):
            step -= 1
        yield step


def rows_alive(lines: Sequence[Lines], order: str = "wavefront", from_row: int = 0) -> int:
    """The most canvas rows that are in use at once, found by going through the tasks.

    A row is in use from when step 0 first reads it until nothing reads it any more.

    Args:
        lines: the rows of each step's grid.
        order: "wavefront" or "steps".
        from_row: rows above are finished already.
    """
    most = begun = 0
    for task in row_tasks(lines, order, from_row):
        if task.step == 0:
            begun = lines[0].read_end(task.row)
        most = max(most, begun - task.keep_from)
    return most
