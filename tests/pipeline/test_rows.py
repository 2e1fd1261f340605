"""Several stains in one pass over the H&E, each going on where it was."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pipeline.row_translators import BEFORE, LateTranslator, translated
from tests.sampling.stores import Killed, MemoryStore
from wsigen.pipeline.rows import BackgroundWriter, IHCRows

SIDE = 200
IMAGE = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)


def store(rows=0, which=0, **options):
    """What was kept of an earlier run."""
    store = MemoryStore(SIDE, **options)
    store.rows = translated(IMAGE, which)[:rows]
    return store


def follow(stores, *, first=0, strip=32):
    begun = []

    def begin(which, start):
        begun.append((list(which), start))
        return LateTranslator(which, SIDE, start)

    with BackgroundWriter() as writer:
        twins = IHCRows(stores, SIDE, begin, writer)
        for y in range(first, SIDE, strip):
            twins.push(y, IMAGE[y : y + strip])
        return begun, twins


def test_rows_go_each_to_its_own_sink():
    stores = [store(), store()]
    begun, twins = follow(stores)
    assert begun == [([0, 1], 0)]
    assert twins.first_row == 0
    assert all(np.array_equal(s.rows, translated(IMAGE, i)) for i, s in enumerate(stores))


@given(
    done=st.lists(st.integers(0, SIDE), min_size=1, max_size=3),
    strip=st.integers(1, SIDE),
    early=st.booleans(),
)
def test_each_goes_on_where_it_was(done, strip, early):
    stores = [store(rows, which) for which, rows in enumerate(done)]
    shortest = min(done)
    first = 0 if early else max(0, shortest - BEFORE)
    begun, twins = follow(stores, first=first, strip=strip)
    assert all(np.array_equal(s.rows, translated(IMAGE, i)) for i, s in enumerate(stores))
    unfinished = [i for i, rows in enumerate(done) if rows < SIDE]
    assert begun == ([(unfinished, shortest)] if unfinished else [])
    assert twins.first_row == (max(0, shortest - BEFORE) if unfinished else SIDE)
    for s, rows in zip(stores, done, strict=True):
        assert sum(s.appends) == SIDE - rows, "nothing is written twice"


def test_what_is_complete_is_not_translated_again():
    stores = [store(SIDE, 0), store(64, 1)]
    begun, _ = follow(stores)
    assert begun == [([1], 64)]
    assert stores[0].appends == []


def test_a_full_disk_of_one_is_not_hidden():
    with pytest.raises(Killed):
        follow([store(), store(which=1, dies_at=50)])
