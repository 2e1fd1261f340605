"""H&E and stain sampled together: rows before compression, and every interruption without a trace."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pipeline.row_translators import BEFORE, LateTranslator, translated
from tests.sampling.stores import GLASS, SMALL, BlurDenoiser, Killed, MemoryStore
from wsigen.geometry import Region, Size
from wsigen.pipeline.rows import BackgroundWriter, IHCRows, PairStore, translated_rows
from wsigen.sampling.cascade import run_cascade
from wsigen.sampling.spec import Execution, stage_specs

SIDE, STAGES = 96, 3
SPECS = stage_specs(SMALL, size=Size.square(SIDE), stages=STAGES, k=2, mpp=0.5, seed=0)
LAST = STAGES


class Recorder:
    """Stainers that make no picture of their own; remember what they were asked for."""

    def __init__(self):
        self.asked = []

    def only(self, which):
        self.which = which
        return self

    def begin(self, size, glass, start):
        self.asked.append((size, glass, start))
        return LateTranslator(self.which, size.height, start)


def sample(stores, stained, stainers=None):
    """The cascade into stores that outlive it."""

    def store(stage):
        mine = stores.setdefault(stage, MemoryStore(SPECS[stage].size))
        if stage < LAST:
            return mine
        above = [stores[i] for i in range(LAST)]
        rows = translated_rows(SPECS, above, stained, stainers or Recorder(), GLASS, writer)
        return PairStore(mine, rows)

    with BackgroundWriter() as writer:
        run_cascade(BlurDenoiser(), SPECS, store, background=GLASS, execution=Execution(threads=1))


@pytest.fixture(scope="module")
def whole():
    stores = {}
    sample(stores, [])
    return stores[LAST].rows


def test_the_stain_is_that_of_the_rows_as_they_were_sampled(whole):
    stained = [MemoryStore(SIDE), MemoryStore(SIDE)]
    stores = {}
    sample(stores, stained)
    assert np.array_equal(stores[LAST].rows, whole)
    assert all(np.array_equal(s.rows, translated(whole, i)) for i, s in enumerate(stained))


@settings(max_examples=12)
@given(
    at=st.lists(st.tuples(st.integers(0, 2), st.integers(0, SIDE - 1)), max_size=4), block=st.integers(1, 48)
)
def test_killed_anywhere_all_slides_are_the_same(whole, at, block):
    stores, stained = {LAST: MemoryStore(SIDE, block=block)}, [MemoryStore(SIDE, block=block) for _ in "ab"]
    for which, row in at:
        victim = [stores[LAST], *stained][which]
        victim.dies_at = row if row >= victim.rows_done else None
        try:
            sample(stores, stained)
        except Killed:
            for other in (stores[LAST], *stained):  # as a journal, that forgets what fills no block
                if other.rows_done < SIDE:
                    other.rows = other.rows[: other.rows_done // block * block]
        victim.dies_at = None
    sample(stores, stained)
    assert np.array_equal(stores[LAST].rows, whole)
    assert all(np.array_equal(s.rows, translated(whole, i)) for i, s in enumerate(stained))


def test_only_the_rows_that_a_stain_lacks_are_sampled_again(whole):
    stores, stained = {}, [MemoryStore(SIDE)]
    sample(stores, stained)
    stained[0].rows = stained[0].rows[:80]
    kept = stores[LAST].appends.copy()
    sample(stores, stained)
    assert stores[LAST].appends == kept, "the H&E is not written again"
    assert np.array_equal(stained[0].rows, translated(whole))


def test_a_run_goes_on_at_the_first_row_that_anyone_needs():
    slide, stain = MemoryStore(SIDE), MemoryStore(SIDE)
    slide.rows, stain.rows = np.zeros((90, SIDE, 3), np.uint8), np.zeros((60, SIDE, 3), np.uint8)
    with BackgroundWriter() as writer:
        twins = IHCRows([stain], SIDE, lambda which, start: LateTranslator(which, SIDE, start), writer)
        sink = PairStore(slide, twins)
        assert sink.rows_done == 60 - BEFORE
        for _ in range(SIDE - sink.rows_done):
            sink.append(np.zeros((1, SIDE, 3), np.uint8))
    assert slide.appends == [1] * 6
    assert stain.rows_done == SIDE
    assert np.array_equal(sink.read(Region(0, 0, SIDE, SIDE)), slide.rows)


def test_slide_behind_its_finished_stain():
    slide, stain = MemoryStore(SIDE), MemoryStore(SIDE)
    stain.rows = np.zeros((SIDE, SIDE, 3), np.uint8)
    idle = IHCRows([stain], SIDE, lambda *_: pytest.fail("nothing is left to translate"), BackgroundWriter())
    sink = PairStore(slide, idle)
    assert sink.rows_done == 0
    sink.append(np.zeros((SIDE, SIDE, 3), np.uint8))
    assert slide.rows_done == SIDE


def test_glass_is_seen_on_the_stage_above():
    stores, recorder = {}, Recorder()
    sample(stores, [MemoryStore(SIDE)], recorder)
    ((size, glass, start),) = recorder.asked
    assert (size, start) == (Size(SIDE, SIDE), 0)
    above = stores[LAST - 1].rows.reshape(6, 8, 6, 8, 3).mean(axis=(1, 3))
    assert np.array_equal(glass.occupied, np.abs(above - GLASS).max(axis=2) > 8.5)


def test_a_slide_of_one_stage_is_tissue_all_over():
    specs = stage_specs(SMALL, size=Size.square(32), stages=0, k=2, mpp=0.5, seed=0)
    recorder, slide, stain = Recorder(), MemoryStore(32), MemoryStore(32)
    with BackgroundWriter() as writer:
        run_cascade(
            BlurDenoiser(),
            specs,
            lambda _: PairStore(slide, translated_rows(specs, [], [stain], recorder, GLASS, writer)),
            background=GLASS,
            execution=Execution(threads=1),
        )
    assert recorder.asked == [(Size(32, 32), None, 0)]
    assert np.array_equal(stain.rows, translated(slide.rows))
