"""What `wsigen evaluate` accepts, and how it names what it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsigen.config.check import as_list
from wsigen.config.evaluate import EvaluateConfig
from wsigen.errors import InvalidValueError


def config(**options):
    return EvaluateConfig(**({"real": "real", "generated": "slides"} | options))


def test_scales_are_sorted_and_different():
    assert config().scales == (0.5, 1.0, 4.0, 16.0)
    assert config(mpp="4, 0.25,4").scales == (0.25, 4.0)
    assert config(mpp=[2, 1.0]).scales == (1.0, 2.0)
    assert config(mpp=1).scales == (1.0,)


@pytest.mark.parametrize("mpp", ["", "a", "1,,2", "0", "-1", "inf", "nan", []])
def test_nonsense_scales(mpp):
    with pytest.raises(InvalidValueError, match=r"--mpp must be positive numbers of µm/px such as 0\.5,1,4"):
        config(mpp=mpp)


def test_sets_by_name_the_generated_one_first():
    assert config().sets == {"generated": ["slides"]}
    several = config(generated=["a", "b"], compare=["fast=x", "out/paper", "fast=y", "one.ome.tif"])
    assert list(several.sets.items()) == [
        ("generated", ["a", "b"]),
        ("fast", ["x", "y"]),
        ("paper", ["out/paper"]),
        ("one.ome", ["one.ome.tif"]),
    ]
    assert config(generated=None, compare="a=b=c").sets == {"a": ["b=c"]}


@pytest.mark.parametrize("item", ["real=x", "train=x", "=x", "x=", "real"])
def test_names_that_are_taken_or_missing(item):
    with pytest.raises(InvalidValueError, match="--compare must be NAME=PATHS with a name that is not real"):
        config(compare=[item])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"real": ""}, "--real must be slides, got ''"),
        ({"real": []}, "--real must be slides"),
        ({"generated": None}, r"--generated must be slides to judge \(or give --compare NAME=PATHS\)"),
        ({"real_pairs": "x"}, "--pairs must be given with --real-pairs"),
        ({"generated": None, "compare": "a=b", "pairs": "x"}, "--generated must be given with --pairs"),
        ({"patch": 63}, "--patch must be >= 64 px, got 63"),
        ({"patches": 15}, "--patches must be >= 16, got 15"),
        ({"seed": -1}, "--seed must be between 0 and"),
        ({"joint_classifiers": -1}, "--joint-classifiers must be >= 0, got -1"),
        ({"workers": -1}, "--workers must be >= 0, got -1"),
    ],
)
def test_mistakes_name_the_flag_and_what_it_wants(options, said):
    with pytest.raises(InvalidValueError, match=said):
        config(**options)


def test_one_path_or_several():
    assert as_list(None) == []
    assert as_list("a") == ["a"]
    assert as_list(Path("a")) == ["a"]
    assert as_list(["a", Path("b")]) == ["a", "b"]
