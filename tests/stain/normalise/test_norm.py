"""Kinds of normalisation: their names, what they ask for, and how one is added."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.commands import ROOT
from tests.stain.translations import OneNorm, texture, translate
from wsigen.errors import InvalidValueError
from wsigen.stain.normalise.norm import NORMALISERS, Norm, Normaliser


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


@pytest.mark.parametrize("bad", [{"kind": "bn"}, {"size": 2}, {"size": -1}, {"granularity": 0}])
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
    assert (norm.is_constant, norm.is_local, norm.normaliser.reach) == (bool(constant), bool(local), reach)


class Own(Normaliser):
    """Mean 0 and a given 1/σ at every node: own-5."""

    names = ("own", "own-5")
    pattern = r"(?:-(?P<size>\d+))?"

    def finish(self, mean, inv_std, confidence):
        return torch.zeros_like(mean), torch.full_like(inv_std, self.norm.size)


class Fixed(Normaliser):
    """A mean of 0.25, and the σ of a thumbnail."""

    names = ("fixed",)
    scope = "slide"  # pyright: ignore

    def whole_slide(self, thumbnail, nodes):
        return [[replace(s, mean=torch.full_like(s.mean, 0.25)) for s in own] for own in thumbnail()]


@pytest.mark.parametrize("name", ["own-5", "fixed"])
def test_a_kind_is_added_by_one_class(name, monkeypatch):
    monkeypatch.setitem(NORMALISERS, "own", Own)
    monkeypatch.setitem(NORMALISERS, "fixed", Fixed)
    image = texture(192, 256)
    values = image / 127.5 - 1
    mean, inv_std = {"own-5": (0, 5), "fixed": (0.25, 1 / values.std((0, 1)))}[name]
    expected = (0.25 * (values - mean) * inv_std + 1) * 127.5
    (out,) = translate([OneNorm()], image, norm=Norm.parse(name), pitch=64, tile=64, chop=50)
    np.testing.assert_allclose(out, expected.clip(0, 255), atol=0.52)
    with pytest.raises(InvalidValueError, match="kin-inf, dn, dn-8, own, own-5 or fixed, got 'bn'"):
        Norm.parse("bn")


def test_every_kind_is_documented():
    page = (ROOT / "docs" / "stain.md").read_text(encoding="utf-8")
    rows = page[page.index("| `--norm` |") :].partition("\n\n")[0]
    help_text = (ROOT / "tests" / "snapshots" / "translate.txt").read_text(encoding="utf-8")
    for kind, normaliser in NORMALISERS.items():
        assert normaliser.names[0] == kind
        for name in normaliser.names:
            assert Norm.parse(name).kind == kind
            assert f"`{name}`" in rows
            assert name in help_text
