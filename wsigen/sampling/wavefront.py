"""The order in which rows of patches are denoised, as data: `StageRun` executes whatever order it is given.

A row of patches of step i may be denoised once step i - 1 has finished every canvas row that it reads. Any
order that respects this gives the same canvas, bit for bit, because patches of one step are independent.

* "steps": each step over the whole canvas before the next begins.
* "wavefront": always advance the latest step that can advance. Each canvas row is then at exactly one step,
  rows are finished in order, and only the rows between the fronts of the last and the first step are alive.
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
        keep_from: first canvas row that this task or a later one reads; rows above may be dropped.
    """

    step: int
    row: int
    keep_from: int


def first_rows(lines: Sequence[Lines], from_row: int = 0) -> list[int]:
    """Return the topmost patch row of each step that canvas rows ≥ ``from_row`` of the result depend on.

    They depend on all patch rows below as well, so this is all that a resumed run must know.

    Args:
        lines: the rows of each step's grid.
        from_row: first canvas row that is wanted.
    """
    needed, first = from_row, []
    for step in reversed(lines):
        first.append(step.cell_of(needed))
        needed = step.read_start(first[-1])  # what this step reads, the one before must have written
    return first[::-1]


def row_tasks(lines: Sequence[Lines], order: str = "wavefront", from_row: int = 0) -> Iterator[RowTask]:
    """Yield the rows of patches that canvas rows ≥ ``from_row`` depend on, in a valid order.

    Args:
        lines: the rows of each step's grid.
        order: "wavefront" or "steps".
        from_row: rows above are finished already (where an interrupted run resumes).

    Raises:
        InvalidValueError: unknown order.
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
    """Progress of each step."""

    def __init__(self, lines: Sequence[Lines], first: list[int]) -> None:
        self.lines, self.first, self.next_row = lines, first, list(first)

    def unfinished(self, step: int) -> bool:
        return self.next_row[step] < self.lines[step].count

    def ready(self, step: int) -> bool:
        """Return whether the previous step has finished all that the step's next row reads."""
        if not self.unfinished(step):
            return False
        if step == 0 or not self.unfinished(step - 1):
            return True
        above = self.lines[step - 1]
        return above.start(self.next_row[step - 1]) >= self.lines[step].read_end(self.next_row[step])

    def keep_from(self) -> int:
        return min(self._reads(step) for step in range(len(self.lines)) if self.unfinished(step))

    def _reads(self, step: int) -> int:
        # `Canvas` keeps copies of the rows of the upper halo, except for the first row of patches.
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
        # Of the later steps only the next one can have become ready.
        step = min(step + 1, last)
        while not front.ready(step):
            step -= 1
        yield step


def rows_alive(lines: Sequence[Lines], order: str = "wavefront", from_row: int = 0) -> int:
    """Return the largest number of canvas rows in use at once, by going through the tasks.

    A row is in use from when step 0 first reads it until no later task reads it.

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
