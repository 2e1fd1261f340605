"""Orders respect dependencies and do everything once; a resumed run does what it needs and no more."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsigen.errors import InvalidValueError
from wsigen.geometry import Size
from wsigen.sampling.shift import SHIFTS, Lines, ShiftPlan
from wsigen.sampling.wavefront import ORDERS, first_rows, row_tasks, rows_alive


@st.composite
def row_lines(draw: st.DrawFn) -> list[Lines]:
    """Rows of any grid sequence: shifts of every mode, or arbitrary offsets, strides and halos."""
    extent, patch = draw(st.integers(8, 200)), 2 * draw(st.integers(4, 24))
    steps = draw(st.integers(1, 9))
    if draw(st.booleans()):
        plan = ShiftPlan(mode=draw(st.sampled_from(SHIFTS)), halo=2, halo_steps=draw(st.integers(0, 3)))
        made = plan.grids(
            seed=draw(st.integers(0, 99)),
            stage=1,
            steps=steps,
            canvas=Size.square(extent),
            patch=Size.square(patch),
            k=2,
        )
        return [grid.rows for grid in made]
    halos = [draw(st.integers(0, patch // 2 - 1)) for _ in range(steps)]
    return [Lines(extent, draw(st.integers(0, patch - 2 * h - 1)), patch - 2 * h, h) for h in halos]


orders = st.sampled_from(ORDERS)


@settings(max_examples=80, deadline=None)
@given(lines=row_lines(), order=orders, data=st.data())
def test_every_task_finds_what_it_reads_at_its_step(lines, order, data):
    """Simulates the canvas row by row, including that a resumed run finds nothing above its cone."""
    extent = lines[0].extent
    from_row = data.draw(st.integers(0, extent - 1))
    unknown = -1
    done = [unknown] * extent  # steps that were done on each row; rows begin when step 0 first reads them
    first_seen = [True] * len(lines)
    finished: list[int] = []
    for task in row_tasks(lines, order, from_row):
        step, now = lines[task.step], task.step
        reads = range(step.read_start(task.row), step.read_end(task.row))
        writes = range(max(step.start(task.row), 0), min(step.end(task.row), extent))
        if now == 0:
            for y in reads:
                done[y] = 0 if done[y] == unknown else done[y]
        # Rows of the upper halo were taken on by the task above, which keeps a copy.
        for y in reads:
            above_kept = y < writes.start and not first_seen[now]
            assert done[y] == now or (above_kept and done[y] >= now), (task, y, done[y])
        assert task.keep_from <= (writes.start if not first_seen[now] else reads.start)
        first_seen[now] = False
        for y in writes:
            done[y] = now + 1
        if now == len(lines) - 1:
            finished.extend(writes)
    assert finished == list(range(finished[0], extent)), "rows leave once, in order"
    assert finished[0] <= from_row


@settings(max_examples=40, deadline=None)
@given(lines=row_lines(), order=orders)
def test_every_row_of_every_step_once(lines, order):
    tasks = [(task.step, task.row) for task in row_tasks(lines, order)]
    assert len(tasks) == len(set(tasks))
    assert set(tasks) == {(i, row) for i, step in enumerate(lines) for row in range(step.count)}


@settings(max_examples=40, deadline=None)
@given(lines=row_lines(), data=st.data())
def test_the_cone_is_minimal(lines, data):
    """Each step's first row is needed: the step after reads a row that it writes."""
    from_row = data.draw(st.integers(0, lines[0].extent - 1))
    first = first_rows(lines, from_row)
    assert lines[-1].start(first[-1]) <= from_row < lines[-1].end(first[-1])
    for i in range(len(lines) - 1):
        needed = lines[i + 1].read_start(first[i + 1])
        assert lines[i].start(first[i]) <= needed < lines[i].end(first[i])
    for order in ORDERS:
        tasks = list(row_tasks(lines, order, from_row))
        assert {t.step: t.row for t in reversed(tasks)} == dict(enumerate(first))


@settings(max_examples=40, deadline=None)
@given(lines=row_lines(), order=orders)
def test_what_is_kept_only_moves_down(lines, order):
    kept = [task.keep_from for task in row_tasks(lines, order)]
    assert kept == sorted(kept)


@settings(max_examples=40, deadline=None)
@given(lines=row_lines(), data=st.data())
def test_the_wavefront_always_advances_the_latest_step(lines, data):
    done = [0] * len(lines)  # rows of each step
    for task in row_tasks(lines):
        for later in range(task.step + 1, len(lines)):
            above = lines[later - 1]
            front = above.start(done[later - 1]) if done[later - 1] < above.count else above.extent
            blocked = done[later] == lines[later].count or lines[later].read_end(done[later]) > front
            assert blocked, "a later step could have gone on"
        done[task.step] += 1


def drifting(steps: int, drift: float, *, extent: int = 65536, patch: int = 512) -> list[Lines]:
    plan = ShiftPlan(mode="drift", drift=drift)
    return [
        g.rows
        for g in plan.grids(
            seed=0, stage=7, steps=steps, canvas=Size.square(extent), patch=Size.square(patch), k=2
        )
    ]


@pytest.mark.parametrize(
    ("steps", "drift", "bound"), [(12, 0.125, 1280), (40, 0.125, 3072), (12, 0.38, 2900)]
)
def test_rows_alive_are_what_drift_and_patch_take(steps, drift, bound):
    lines = drifting(steps, drift)
    alive = rows_alive(lines)
    assert alive <= bound
    assert alive <= steps * ShiftPlan(drift=drift).drift_rows(512, 2) + 512
    assert rows_alive(lines, "steps") == 65536


def test_rows_alive_do_not_grow_with_the_canvas():
    assert len({rows_alive(drifting(10, 0.125, extent=extent)) for extent in (8192, 16384, 65536)}) == 1
    random = [
        g.rows
        for g in ShiftPlan(mode="random").grids(
            seed=0, stage=7, steps=40, canvas=Size.square(65536), patch=Size.square(512), k=2
        )
    ]
    assert rows_alive(random) < 14000


def test_without_shift_one_row_of_patches_is_alive():
    still = [Lines(4096, 0, 512)] * 10
    assert rows_alive(still) == 512
    assert [t.step for t in row_tasks(still)][:12] == [*range(10), 0, 1]


def test_resumed_runs_hold_little_more():
    lines = drifting(10, 0.125)
    assert rows_alive(lines, from_row=32768) <= rows_alive(lines) + 512


def test_nothing_is_left_of_a_finished_canvas():
    assert list(row_tasks([Lines(64, 0, 16)] * 3, from_row=64)) == []


def test_unknown_orders_are_refused():
    with pytest.raises(InvalidValueError, match="schedule must be one of wavefront, steps, got 'spiral'"):
        list(row_tasks([Lines(64, 0, 16)], "spiral"))
