"""Calls in a thread: in order, one at a time, no error lost, none left running."""

from __future__ import annotations

import threading

import pytest

from wsigen.pipeline.rows import BackgroundWriter


def fail():
    raise OSError("disk full")


def test_calls_run_in_order_beside_the_caller():
    done, go = [], threading.Event()
    with BackgroundWriter() as writer:
        writer.run(lambda: done.append(go.wait(30)))
        assert done == [], "the caller goes on"
        go.set()
        for i in range(20):
            writer.run(lambda i=i: done.append(i))
    assert done == [True, *range(20)]


def use(then):
    with BackgroundWriter() as writer:
        writer.run(fail)
        if then == "run":
            writer.run(lambda: pytest.fail("nothing is written after an error"))
        if then == "wait":
            writer.wait()
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
        with BackgroundWriter() as writer:
            writer.run(write)
            go.set()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert ended == [True]
