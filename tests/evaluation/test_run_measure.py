"""Cautions and refusals become warnings; anything else stays what it is."""

from __future__ import annotations

import warnings

import pytest

from wsigen.errors import InvalidValueError
from wsigen.evaluation.estimate import caution, different, run_measure


def test_cautions_are_heard_once():
    def measure() -> int:
        caution("biased from 12 patches")
        caution("biased from 13 patches")
        caution("something else")
        return 3

    assert run_measure(measure) == (3, ("biased from 12 patches", "something else"))
    assert run_measure(lambda: 4) == (4, ())


def test_a_refusal_is_a_value_that_is_missing():
    def measure() -> int:
        caution("careful")
        raise InvalidValueError("too few")

    assert run_measure(measure) == (None, ("careful", "not measured: too few"))


def test_bugs_and_other_warnings_come_through():
    with pytest.raises(ZeroDivisionError):
        run_measure(lambda: 1 // 0)
    with pytest.warns(UserWarning, match="other"):
        run_measure(lambda: warnings.warn("other", stacklevel=1))


def test_messages_that_differ_in_numbers_are_one():
    assert different(["a 1.5 b", "a 22 b", "c", "a 1.5 b"]) == ("a 1.5 b", "c")
