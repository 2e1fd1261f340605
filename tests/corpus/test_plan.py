"""What each slide of a corpus is follows from its seed, and stays so when the corpus grows."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from wsigen.cli import main
from wsigen.config.corpus import parse_classes, parse_shard, parse_splits
from wsigen.corpus import make
from wsigen.corpus.plan import assign, plan_corpus
from wsigen.errors import InvalidValueError, SlideError

SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}


@given(count=st.integers(1, 200), shares=st.lists(st.integers(1, 20), min_size=1, max_size=5))
def test_every_split_has_its_share_within_one_at_any_count(count, shares):
    total = sum(shares)
    wanted = {str(i): share / total for i, share in enumerate(shares)}
    split_of = assign([str(i) for i in range(count)], wanted)
    for i in (count // 2, count):
        taken = Counter(split_of[str(j)] for j in range(i))
        assert all(abs(taken[split] - share * i) <= 1 + 1e-6 for split, share in wanted.items())


def test_eight_slides_are_split_6_1_1():
    assert Counter(assign([str(i) for i in range(8)], SHARES).values()) == {"train": 6, "val": 1, "test": 1}


def test_sizes_and_mpp_follow_from_the_seed(options, tmp_path):
    config = options(tmp_path, count=60, size="128,256x128", mpp="0.4-0.6", seed=5)
    items = plan_corpus(config)
    assert [item.config.seed for item in items] == list(range(5, 65))
    assert [item.name for item in items[:2]] == ["synthetic-5", "synthetic-6"]
    sizes = Counter(item.config.size for item in items)
    assert sizes.keys() == {"128", "256x128"}
    assert min(sizes.values()) > 15
    assert len({item.config.mpp for item in items}) > 50
    assert plan_corpus(options(tmp_path, count=20, size="128,256x128", mpp="0.4-0.6", seed=5)) == items[:20]


def test_each_split_has_its_share_of_each_class(options, tmp_path):
    config = options(tmp_path, count=40, classes="liver=3, soft tissue", guidance=2.0)
    items = plan_corpus(config)
    assert Counter((item.split, item.config.class_label) for item in items) == {
        ("train", "liver"): 15,
        ("train", "soft tissue"): 5,
        ("val", "liver"): 15,
        ("val", "soft tissue"): 5,
    }
    assert {item.config.guidance for item in items} == {2.0}
    assert plan_corpus(replace(config, count=13)) == items[:13]
    assert {item.config.class_label for item in plan_corpus(options(tmp_path))} == {None}


def test_weights_of_classes():
    assert parse_classes("a") == {"a": 1.0}
    assert parse_classes("skin/squamous=1,x=y=3") == {"skin/squamous": 0.25, "x=y": 0.75}
    assert parse_classes(None) == {}


@pytest.mark.parametrize("text", ["", "a,", "a=0", "a=-1", "a=x", "a,a", "=2", "a=inf"])
def test_what_is_no_weight_of_classes_is_named(text):
    with pytest.raises(InvalidValueError, match=f"--classes must be NAME=WEIGHT, .*, got {text!r}"):
        parse_classes(text)


def test_guidance_needs_classes(options, tmp_path):
    with pytest.raises(
        InvalidValueError, match=r"--guidance must be given with --classes, or left out, got 2"
    ):
        options(tmp_path, guidance=2.0)


def test_slides_of_one_overview_share_a_split(options, tmp_path):
    for name in "abcd":
        Image.new("RGB", (64, 64), (200, 120, 180)).save(tmp_path / f"{name}.png")
    config = options(
        tmp_path / "out", count=12, size=None, stages=None, overview=[str(tmp_path)], overview_mpp=2
    )
    items = plan_corpus(config)
    by_overview = {(item.overview, item.split) for item in items}
    assert Counter(item.overview for item in items) == {f"{name}.png": 3 for name in "abcd"}
    assert len(by_overview) == 4
    assert Counter(split for _, split in by_overview) == {"train": 2, "val": 2}


def test_impossible_corpora_are_refused(options, tmp_path):
    with pytest.raises(InvalidValueError, match=r"2 slides are too few for test, val; pass a larger --count"):
        plan_corpus(options(tmp_path, count=2, split="train=0.8,val=0.1,test=0.1"))
    Image.new("RGB", (64, 64)).save(tmp_path / "one.png")
    with pytest.raises(InvalidValueError, match="1 overviews are too few for val"):
        plan_corpus(options(tmp_path, size=None, stages=None, overview=[str(tmp_path / "one.png")]))
    with pytest.raises(SlideError, match="no such file"):
        plan_corpus(options(tmp_path, size=None, overview=[str(tmp_path / "none.png")]))


@pytest.mark.parametrize("text", ["", "train", "train=1.5", "train=0.5", "a=0.5,a=0.5", "a=0,b=1", "a=1..0"])
def test_what_is_no_split_is_named(text):
    with pytest.raises(InvalidValueError, match="--split must be NAME=SHARE"):
        parse_splits(text)


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0"])
def test_what_is_no_shard_is_named(text):
    with pytest.raises(InvalidValueError, match="--shard must be I/N"):
        parse_shard(text)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"address": "auto"}, "--address must be given with --engine ray"),
        ({"engine": "ray", "shard": "1/2"}, "--shard must be left out with --engine ray"),
        ({"overview": ["a.png"]}, "--size must be left out with --overview"),
        ({"count": 0}, "--count must be >= 1"),
        ({"workers": 0}, "--workers must be auto or >= 1"),
        ({"size": "128,x"}, "--size must be N or WIDTHxHEIGHT"),
    ],
)
def test_options_that_do_not_go_together_are_named(options, tmp_path, values, message):
    with pytest.raises(InvalidValueError, match=message):
        options(tmp_path, **values)


@pytest.mark.parametrize(
    ("flags", "paths"),
    [
        (["a"], "a"),
        (["a", "b"], ["a", "b"]),
        (["a", "--overview", "b"], ["a", "b"]),
        (["a", "--seed=1"], "a"),
    ],
)
def test_flags_of_paths_take_one_or_several(flags, paths, monkeypatch):
    seen = []
    monkeypatch.setattr(make, "make_corpus", seen.append)
    main.main(["corpus", "make", "--gate", "refuse", "--gate-slides", "c", "d", "--overview", *flags])
    assert (seen[0].overview, seen[0].gate_slides) == (paths, ["c", "d"])
