"""Distances from the floor by hand, the worst of many, and what is written."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest

from wsigen.evaluation.estimate import Estimate
from wsigen.evaluation.results import Report, Result, SetReport, Share, plain, warned
from wsigen.evaluation.topics import METRICS, SECTIONS, of_section


def result(value: float, floor: float, half: float = 1.0, key: str = "fid", **more) -> Result:
    return Result(
        METRICS[key],
        more.pop("mpp", 1.0),
        Estimate(value, value - half, value + half),
        Estimate(floor, floor - half, floor + half),
        **more,
    )


@pytest.mark.parametrize(
    ("key", "value", "floor", "expected"),
    [
        ("fid", 5.0, 2.0, 3 / math.sqrt(2)),
        ("fid", 2.0, 5.0, -3 / math.sqrt(2)),
        ("recall", 2.0, 5.0, 3 / math.sqrt(2)),
        ("recall", 5.0, 2.0, -3 / math.sqrt(2)),
        ("sobel", 5.0, 2.0, 3 / math.sqrt(2)),
        ("sobel", 2.0, 5.0, 3 / math.sqrt(2)),
        ("sobel", 5.0, 5.0, 0.0),
    ],
)
def test_excess_is_in_half_widths_and_positive_where_worse(key, value, floor, expected):
    assert result(value, floor, key=key).excess == pytest.approx(expected)


def test_excess_takes_the_sides_that_face_each_other():
    high = Result(METRICS["fid"], None, Estimate(10, 6, 99), Estimate(2, -50, 5))
    assert high.excess == pytest.approx(8 / math.hypot(4, 3))
    low = Result(METRICS["recall"], None, Estimate(2, -50, 5), Estimate(10, 6, 99))
    assert low.excess == pytest.approx(8 / math.hypot(4, 3))


@pytest.mark.parametrize(
    ("value", "floor", "expected"),
    [(1.0, 0.9, -0.1), (1.05, 0.9, -0.05), (1.3, 0.9, 0.2), (0.7, 0.9, 0.2), (0.9, 0.9, 0.0)],
)
def test_nearer_to_the_best_value_than_real_ones_is_no_worse(value, floor, expected):
    """Of the contrast of detail, which is best at 1."""
    found = result(value, floor, half=0.01, key="scale_detail").excess
    assert found == pytest.approx(expected / math.hypot(0.01, 0.01))


def test_the_worst_is_none_where_no_floor_can_judge():
    blind = Result(METRICS["precision"], 1.0, Estimate(0, 0, 0), Estimate(0, 0, 0))
    one = SetReport("x", (), (blind, result(2, 2, cases=2)))
    assert one.ranked() == []
    assert one.worst() is None
    assert [r.verdict.why for r in one.results] == ["even 0 would be 0.0 ×", "2 real cases"]


def test_no_floor_no_interval_no_excess():
    assert Result(METRICS["fid"], None, Estimate(1, 0, 2)).excess is None
    assert Result(METRICS["fid"], None, None, Estimate(1, 0, 2)).excess is None
    assert result(5, 2, half=0.0).excess is None
    assert result(2, 2, half=0.0).excess == 0
    assert result(math.nan, 2).excess is None


def test_intervals_end_where_the_measure_does():
    found = Result(METRICS["recall"], 1.0, Estimate(0.9, 0.7, 1.2), Estimate(0.05, -0.1, 0.2)).bounded()
    assert (found.value, found.floor) == (Estimate(0.9, 0.7, 1.0), Estimate(0.05, 0.0, 0.2))
    assert Result(METRICS["kid"], 1.0, Estimate(-1, -2, 0)).bounded().value == Estimate(-1, -2, 0)
    assert Result(METRICS["kid"], 1.0, None).bounded().value is None


def test_names_say_where():
    assert result(1, 1).name == "Fréchet distance, 1 µm/px"
    assert result(1, 1, mpp=None).name == "Fréchet distance"
    assert result(1, 1, key="seam", mpp=None, label="256 px tiles").name == "Step at seams, 256 px tiles"


def test_the_worst_is_judged_as_one_of_many():
    rows = (
        result(2, 2, half=0.5),
        result(7, 2, mpp=4.0),
        result(3, 2, key="kid"),
        Result(METRICS["niqe"], 1.0, None),
    )
    one = SetReport("x", (), rows)
    assert [r.key for r in one.ranked()] == ["fid", "kid", "fid"]
    worst = one.worst()
    assert worst is not None
    assert worst.result is rows[1]
    assert worst.excess == pytest.approx(5 / math.sqrt(2))
    assert worst.limit == pytest.approx(NormalDist().inv_cdf(1 - 0.025 / 3) / 1.959964, rel=1e-5)
    assert worst.beyond_chance
    assert str(worst) == "worst is Fréchet distance, 4 µm/px, 3.5 × the 95 % half-width of real-vs-real"
    many = replace(one, results=(result(4, 2), *[result(2, 2, half=0.5)] * 99)).worst()
    assert many is not None
    assert 1 < many.excess < many.limit
    assert str(many).startswith(
        "nothing is outside by more than chance; furthest is Fréchet distance, 1 µm/px"
    )
    assert SetReport("x", (), (Result(METRICS["niqe"], 1.0, None),)).worst() is None


def test_rows_are_found_by_measure_scale_and_label():
    rows = (result(1, 1), result(2, 2, mpp=None), result(3, 3, label="a"))
    one = SetReport("x", (), rows)
    assert one.find("fid", 1.0) is rows[0]
    assert one.find("fid") is rows[1]
    assert one.find("fid", 1.0, "a") is rows[2]
    assert one.find("kid", 1.0) is None


def test_warnings_with_the_rows_that_have_them():
    rows = [result(1, 1, warnings=("few", "odd")), result(1, 1, mpp=4.0, warnings=("few",))]
    assert warned(rows) == {
        "few": ["Fréchet distance, 1 µm/px", "Fréchet distance, 4 µm/px"],
        "odd": ["Fréchet distance, 1 µm/px"],
    }


def test_the_report_as_json():
    share = Share("a.tif", "case", 0.5, {"1": 3})
    report = Report(
        config={"seed": 0},
        versions={"wsigen": "1"},
        features={"name": "weight-free"},
        scales=(1.0,),
        counts={"1": 3},
        sets=(SetReport("x", (share,), (result(math.inf, 2), result(5, 2, warnings=("few",)))),),
        references=(SetReport("real", (share,), left_out=("b.tif: broken",)),),
        curves={"od": np.array([0.5, np.nan])},
    )
    found = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert found["schema"] == "wsigen-evaluation/1"
    assert found["curves"] == {"od": [0.5, None]}
    first, second = found["sets"][0]["results"]
    assert first["value"]["value"] is None
    assert second["value"] == {"value": 5.0, "low": 4.0, "high": 6.0, "method": ""}
    assert second["excess"] == pytest.approx(3 / math.sqrt(2))
    assert second["warnings"] == ["few"]
    assert (second["verdict"], second["why"]) == ("outside", None)
    assert (first["verdict"], first["why"]) == ("no verdict", "not measured")
    assert found["worst"]["x"]["measure"] == "fid"
    assert found["worst"]["x"]["beyond_chance"] is True
    assert found["sets"][0]["slides"] == [
        {"slide": "a.tif", "group": "case", "mpp": 0.5, "patches": {"1": 3}}
    ]
    assert found["references"][0]["left_out"] == ["b.tif: broken"]


def test_rows_are_plain_dictionaries_of_all_sets():
    one = SetReport("x", (), (result(5, 2, warnings=("few", "small")), Result(METRICS["niqe"], 1.0, None)))
    two = SetReport("y", (), (result(2, 2, half=0.5, label="a"),))
    rows = Report({}, {}, {}, (1.0,), {"1": 3}, (one, two)).rows()
    assert [(r["set"], r["measure"], r["label"]) for r in rows] == [
        ("x", "fid", ""),
        ("x", "niqe", ""),
        ("y", "fid", "a"),
    ]
    first, missing, _ = rows
    ends = ("value", "low", "high", "floor", "floor_low", "floor_high")
    assert [first[key] for key in ends] == [5, 4, 6, 2, 1, 3]
    assert (first["verdict"], first["warnings"]) == ("outside", "few; small")
    assert [missing[key] for key in ends] == [None] * 6
    assert all(isinstance(v, str | int | float | None) for r in rows for v in r.values())


def test_plain_values():
    assert plain({1: np.float32(0.5), "x": (np.int64(3), np.inf)}) == {"1": 0.5, "x": [3, None]}


def test_every_measure_belongs_to_a_section_and_speaks_in_sentences():
    assert all(map(of_section, SECTIONS))
    assert sum(len(of_section(s)) for s in SECTIONS) == len(METRICS)
    for key, metric in METRICS.items():
        assert metric.better in ("lower", "higher", "same"), key
        assert metric.good, key
        assert not metric.good.endswith("."), key
        assert metric.key == key
        assert metric.source, key
        assert metric.bounds[0] < metric.bounds[1], key
