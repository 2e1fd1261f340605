"""What a floor that cannot judge says: nothing, never "within real-vs-real range"."""

from __future__ import annotations

import math

import pytest

from wsigen.evaluation.estimate import Estimate
from wsigen.evaluation.topics import METRICS
from wsigen.evaluation.verdict import verdict


def about(value: float, half: float) -> Estimate:
    return Estimate(value, value - half, value + half)


def state(key: str, value: Estimate | None, floor: Estimate | None, cases: int | None = None) -> str:
    return verdict(METRICS[key], value, floor, cases).state


@pytest.mark.parametrize(
    ("steps", "word"), [(-5, "good"), (0, "good"), (0.99, "good"), (1.01, "off"), (2.99, "off"), (3.1, "far")]
)
def test_verdicts_change_at_one_and_three_half_widths(steps, word):
    floor = about(10.0, 0.3)
    assert state("fid", about(10.0 + steps * 0.5, 0.4), floor, 4) == word


@pytest.mark.parametrize(
    ("key", "value", "floor"),
    [
        ("precision", about(0, 0), about(0, 0)),
        ("coverage", about(0, 0), about(0, 0)),
        ("density", about(0, 0), Estimate(0.004, 0, 0.01)),
        ("precision", about(0, 0), Estimate(0.0044, 0, 0.026)),
        ("auc", about(1, 0), about(1, 0)),
        ("auc", Estimate(0.999, 0.99, 1), Estimate(1, 0.99, 1)),
        ("auc", about(0.95, 0.01), Estimate(0.8, 0.6, 1)),
        ("membership", about(0.7, 0.05), about(0.5, 0.48)),
        ("copying", about(-0.3, 1.96), about(0, 15.5)),
        ("seam", about(1.12, 0.06), Estimate(1.55, 0, 3.77)),
        ("edges", about(0.4, 0.1), about(0.4, 0.5)),
        ("power", about(1.3, 0.2), Estimate(1.0, 0.2, 3.0)),
        ("power", about(0.8, 0.2), Estimate(1.0, 0.2, 1.2)),
        ("haematoxylin_kl", about(0.2, 0.1), Estimate(0.3, 0.0, 0.6)),
        ("hue", about(0.7, 0.1), Estimate(0.8, 0.1, 1.0)),
        ("relief", about(0.1, 0.01), Estimate(0.2, 0.05, 0.4)),
        ("scale_psnr", about(27, 1), Estimate(35, 10, 60)),
    ],
)
def test_where_anything_would_pass_there_is_no_verdict(key, value, floor):
    found = verdict(METRICS[key], value, floor)
    assert found.state == "none"
    assert found.why.startswith("even ")
    assert found.why.endswith(" ×")


def test_the_reason_names_what_would_pass():
    found = verdict(METRICS["auc"], about(0.88, 0.0), about(0.7, 0.2))
    assert found.why == "even 1 would be 1.5 ×"
    assert verdict(METRICS["coverage"], about(0, 0), about(0, 0)).why == "even 0 would be 0.0 ×"


@pytest.mark.parametrize(
    ("key", "value", "floor"),
    [
        ("precision", about(0.5, 0.05), about(0.52, 0.05)),
        ("auc", about(0.6, 0.05), about(0.55, 0.1)),
        ("haematoxylin_kl", about(0.005, 0.002), Estimate(0.003, 0, 0.012)),
        ("kid", about(0.0, 0.1), about(0.01, 0.3)),
        ("power", about(1.05, 0.1), about(1.0, 0.2)),
        ("haematoxylin_mean", about(0.2, 0.01), about(0.19, 0.03)),
        ("relief", about(0.06, 0.02), about(0.05, 0.03)),
        ("copies", Estimate(0, 0, 2), Estimate(0, 0, 2.5)),
        ("scale_detail", about(0.97, 0.01), about(0.958, 0.004)),
    ],
)
def test_a_floor_that_would_find_what_is_bad_judges(key, value, floor):
    assert state(key, value, floor, 6) == "good"


@pytest.mark.parametrize(
    ("cases", "why"), [(1, "one real case"), (2, "2 real cases"), (3, "3 real cases"), (4, ""), (None, "")]
)
def test_too_few_cases_call_nothing_as_real(cases, why):
    found = verdict(METRICS["sobel"], about(10, 1), about(10, 1), cases)
    assert found.state == ("none" if why else "good")
    assert found.why == why


def test_what_is_worse_than_a_floor_that_lets_much_pass_is_worse_all_the_same():
    assert state("sobel", about(30, 1), about(10, 1), 2) == "far"
    assert state("auc", about(1.0, 0.0), about(0.6, 0.39)) == "off"


@pytest.mark.parametrize(
    ("value", "floor", "why"),
    [
        (None, about(1, 1), "not measured"),
        (about(math.nan, 1), about(1, 1), "not measured"),
        (about(1, 1), None, "no floor"),
        (about(1, 1), about(math.nan, 1), "no floor"),
        (about(2, 0), about(1, 0), "no interval"),
        (about(2, math.nan), about(1, math.nan), "no interval"),
    ],
)
def test_nothing_to_judge_by(value, floor, why):
    found = verdict(METRICS["fid"], value, floor)
    assert (found.state, found.why) == ("none", why)


def test_a_level_that_is_not_above_zero_has_no_twice():
    assert state("haematoxylin_mean", about(0.0, 0.1), about(-0.01, 0.1)) == "good"


def test_half_as_much_is_bad_where_less_is_what_the_set_has():
    """The floor reaches far down and hardly up: too much would be found, too little would not."""
    floor = Estimate(1.0, 0.1, 1.05)
    assert state("sobel", about(1.02, 0.02), floor) == "good"
    assert state("sobel", about(0.98, 0.02), floor) == "none"
