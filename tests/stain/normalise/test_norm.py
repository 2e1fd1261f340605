"""Names of normalisers, and what they ask for."""

from __future__ import annotations

import pytest

from wsigen.errors import InvalidValueError
from wsigen.stain.normalise.norm import Norm


@pytest.mark.parametrize(
    ("text", "norm"),
    [
        ("dn", Norm()),
        ("dn-8", Norm("dn", granularity=8)),
        ("kin", Norm("kin", "constant", 3)),
        ("kin-5", Norm("kin", "constant", 5)),
        ("kin-gaussian", Norm("kin", "gaussian", 3)),
        ("kin-gaussian-11", Norm("kin", "gaussian", 11)),
        ("kin-inf", Norm("kin", "constant", "inf")),
        ("tin", Norm("tin")),
        ("in", Norm("in")),
    ],
)
def test_names_stand_for_normalisers(text, norm):
    assert Norm.parse(text) == norm


@pytest.mark.parametrize(
    "text", ["", "bn", "dn-inf", "dn-gaussian", "in-3", "tin-512", "kin-x", "kin-4", "dn-0"]
)
def test_other_names_are_refused(text):
    with pytest.raises(InvalidValueError):
        Norm.parse(text)


@pytest.mark.parametrize(
    "bad", [{"kind": "bn"}, {"size": 2}, {"size": -1}, {"granularity": 0}, {"kernel": "x"}]
)
def test_impossible_values_are_refused(bad):
    with pytest.raises(InvalidValueError):
        Norm(**{"kind": "kin", **bad})


@pytest.mark.parametrize(
    ("text", "constant", "local", "reach"),
    [
        ("in", 0, 0, 1),
        ("tin", 1, 0, 1),
        ("kin-inf", 1, 0, 1),
        ("kin", 0, 1, 2),
        ("kin-7", 0, 1, 4),
        ("dn", 0, 1, 1),
    ],
)
def test_what_is_measured_when_and_how_far_around(text, constant, local, reach):
    norm = Norm.parse(text)
    assert (norm.is_constant, norm.is_local, norm.reach) == (bool(constant), bool(local), reach)
