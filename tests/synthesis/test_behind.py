"""Calls in a thread: in order, one at a time, no error lost, none left running."""

from __future__ import annotations

import threading

import pytest

from wsigen.synthesis.behind import Behind


def fail():
    raise OSError("disk full")


def test_calls_run_in_order_beside_the_caller():
    done, go = [], threading.Event()
    with Behind() as behind:
        behind.run(lambda: done.append(go.wait(30)))
        assert done == [], "the caller goes on"
        go.set()
        for i in range(20):
            behind.run(lambda i=i: done.append(i))
    assert done == [True, *range(20)]


def use(then):
    with Behind() as behind:
        behind.run(fail)
        if then == "run":
            behind.run(lambda: pytest.fail("nothing is written after an error"))
        if then == "wait":
            behind.wait()
            pytest.fail("the error was lost")


@pytest.mark.parametrize("then", ["run", "wait", "end"])
def test_an_error_comes_out(then):
    with pytest.raises(OSError, match="disk full"):
        use(then)


def test_the_callers_own_error_wins_and_the_call_ends_first():
    go, ended = threading.Event(), []

    def write():
        ended.append(go.wait(30))
        fail()

    def interrupted():
        with Behind() as behind:
            behind.run(write)
            go.set()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert ended == [True]
