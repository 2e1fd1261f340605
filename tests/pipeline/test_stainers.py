"""Generators by name: what they are called, what they show, which scale they know."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from tests.stain.models import small_generator
from wsigen.errors import InvalidValueError, SnapshotError
from wsigen.geometry import Size
from wsigen.nn.snapshot import weights_hash
from wsigen.pipeline.stainers import Rendering, open_stainers
from wsigen.stain.engine.stream import Norm
from wsigen.stain.stainer import save_stainer

HOW = Rendering(norm=Norm("dn"), pitch=1024, device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture
def stainer(tmp_path):
    """A snapshot of a small generator."""

    def save(name, **config):
        save_stainer(small_generator(blocks=1, **config), tmp_path / name)
        return str(tmp_path / name)

    return save


def test_several_with_what_shows_in_their_slides(stainer):
    first, second = stainer("a", marker="SYN"), stainer("b", marker="Ki-67", seed=1)
    found = open_stainers(f"{first}, {second}", None, HOW)
    assert [s.marker for s in found.stains] == ["SYN", "Ki-67"]
    assert [s.facts["stainer_hash"] for s in found.stains] == [weights_hash(first), weights_hash(second)]
    assert {(s.facts["stats_pitch"], s.facts["dtype"]) for s in found.stains} == {(1024, "float32")}
    assert found.stains[0].facts["norm"]["kind"] == "dn"
    assert not found.nets[0].training
    only = found.only([1])
    assert (only.nets, only.stains) == (found.nets[1:], found.stains[1:])


def test_stainers_without_norms_are_rendered_as_they_are(stainer):
    plain, other = stainer("plain", marker="SYN", norm="none"), stainer("other", marker="CGA")
    found = open_stainers(plain, None, HOW)
    assert found.rendering.norm is None
    assert found.stains[0].facts["norm"] is None
    image = np.random.default_rng(0).integers(0, 256, (160, 256, 3), np.uint8)
    ((_, rows),) = found.begin(Size(160, 256), None).push(image)
    x = torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1
    expected = (found.nets[0](x)[0].permute(1, 2, 0) + 1) * 127.5
    assert (torch.from_numpy(rows) - expected).abs().max() <= 0.51
    with pytest.raises(InvalidValueError, match=r"plain without norm layers .* a run of their own"):
        open_stainers(f"{plain},{other}", None, HOW)


def test_markers_that_are_given_win(stainer):
    first, second = stainer("a", marker="SYN"), stainer("b")
    assert [s.marker for s in open_stainers(f"{first},{second}", ("X", "Y"), HOW).stains] == ["X", "Y"]


@pytest.mark.parametrize(
    ("own", "given", "says"),
    [
        ((None,), None, r"stainer .*/0 does not state its marker"),
        (("SYN",), ("A", "B"), "one for each of 1 stainers, got A, B"),
        (("SYN", "syn"), None, "the same marker, got SYN, syn"),
        (("SYN", "CGA"), ("X", "X"), "the same marker, got X, X"),
    ],
)
def test_markers_that_cannot_be(stainer, own, given, says):
    names = ",".join(stainer(str(i), marker=marker) for i, marker in enumerate(own))
    with pytest.raises(InvalidValueError, match=says):
        open_stainers(names, given, HOW)


def test_a_stainer_that_is_not_there():
    with pytest.raises(SnapshotError, match="ABC: no stainer of this name; bundled markers are"):
        open_stainers("ABC", None, HOW)


@pytest.mark.parametrize(
    ("config", "mpp", "seen"),
    [
        ({"mpp": 0.5}, 0.5, None),
        ({"mpp": 0.5}, 0.59, None),
        ({"mpp": 0.5}, 0.61, "0.5"),
        ({"mpp": 0.5}, 0.25, "0.5"),
        ({"mpp_range": (0.4, 1.0)}, 0.34, None),
        ({"mpp_range": (0.4, 1.0)}, 0.33, "0.4 to 1"),
        ({"mpp_range": (0.4, 1.0)}, 1.3, "0.4 to 1"),
        ({}, 40.0, None),
    ],
)
def test_a_scale_that_it_does_not_know(stainer, caplog, config, mpp, seen):
    found = open_stainers(stainer("a", marker="SYN", **config), None, HOW)
    with caplog.at_level(logging.WARNING):
        found.warn_of_scale(mpp)
    assert [f"was trained at {seen}; quality may be lower" in r.message for r in caplog.records] == [
        True
    ] * bool(seen)
