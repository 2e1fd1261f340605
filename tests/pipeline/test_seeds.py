"""A slide's µm/px follows from its seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsigen.config import parse_mpp
from wsigen.errors import InvalidValueError
from wsigen.pipeline.seeds import slide_mpp


def test_values_are_uniform_in_the_range_and_stay_as_they_are():
    values = np.array([slide_mpp("0.4-0.8", seed) for seed in range(2000)])
    assert values.min() >= 0.4
    assert values.max() <= 0.8
    counts = np.histogram(values, bins=8, range=(0.4, 0.8))[0]
    assert abs(counts - 250).max() < 60  # four standard deviations
    assert values[:3].tolist() == [0.6035, 0.5079, 0.7578]


@given(low=st.floats(0.05, 100), more=st.floats(0, 100), seed=st.integers(0, 2**63 - 1))
def test_a_value_lies_in_its_range_and_makes_itself(low, more, seed):
    high = low + more
    value = slide_mpp(f"{low:f}-{high:f}", seed)
    assert float(f"{low:f}") <= value <= float(f"{high:f}")
    assert slide_mpp(value, seed) == slide_mpp(str(value), seed) == value


@pytest.mark.parametrize("text", ["0-1", "1-0.5", "-1", "0.5-", "0.4-0.5-0.6", "1..2-3", "nan", "x"])
def test_what_is_no_range_is_named(text):
    with pytest.raises(InvalidValueError, match=f"--mpp must be .* LOW-HIGH .*, got '{text}'"):
        parse_mpp(text)
