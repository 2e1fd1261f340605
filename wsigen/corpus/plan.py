"""What a corpus holds: size, µm/px, overview, split and class of each slide, as they follow from its seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsigen.config import SampleConfig
from wsigen.config.check import as_list
from wsigen.config.corpus import CorpusConfig, parse_classes, parse_sizes, parse_splits
from wsigen.data.find import find_slides
from wsigen.errors import InvalidValueError
from wsigen.pipeline.sample import NAME
from wsigen.pipeline.seeds import slide_mpp
from wsigen.sampling.shift import uniform_integer

SLIDES = "slides"
"""Folder of a corpus that its slides are in."""

_AXIS = 3  # of the random integers; grid shifts take 0 and 1, the µm/px of a seed 2


@dataclass(frozen=True, kw_only=True)
class Item:
    """A slide of a corpus.

    Args:
        name: base name of its files.
        split: that it belongs to.
        overview: name of the overview that it starts from; empty if stage 0 is sampled.
        config: of the command that samples it.
    """

    name: str
    split: str
    overview: str
    config: SampleConfig


def plan_corpus(config: CorpusConfig) -> list[Item]:
    """Decide on every slide of a corpus; a larger ``count`` leaves the slides before as they are.

    Raises:
        SlideError: there is no overview in a folder.
        InvalidValueError: a split would be empty, or the same overview is given twice.
    """
    overviews = _overviews(as_list(config.overview))
    names = list(overviews)
    order = np.random.default_rng(config.seed).permutation(len(names))
    chosen = [names[order[i % len(names)]] if names else "" for i in range(config.count)]
    # Slides of one overview show the same tissue; each other slide is a group of its own.
    groups = [chosen[i] or str(i) for i in range(config.count)]
    shares = parse_splits(config.split)
    of_group = assign(list(dict.fromkeys(groups)), shares)
    if empty := set(shares) - set(of_group.values()):
        what = f"{len(names)} overviews" if names else f"{config.count} slides"
        raise InvalidValueError(
            f"--split {config.split}: {what} are too few for {', '.join(sorted(empty))}; pass a larger "
            "--count, more overviews, or fewer splits"
        )
    sizes, classes = parse_sizes(config.size), _classes(config, [of_group[group] for group in groups])
    items = []
    for i, (overview, group) in enumerate(zip(chosen, groups, strict=True)):
        seed = config.seed + i
        size = sizes[uniform_integer(seed, 0, 0, _AXIS, len(sizes))]
        start = {"overview": overviews[overview], "overview_mpp": config.overview_mpp} if overview else {}
        name = f"{NAME}-{seed}"
        sample = config.sample_config(
            seed=seed,
            size=size,
            mpp=slide_mpp(config.mpp, seed),
            out=config.out / SLIDES,
            name=name,
            class_label=classes[i],
            **start,
        )
        items.append(Item(name=name, split=of_group[group], overview=overview, config=sample))
    return items


def assign(groups: Sequence[str], shares: Mapping[str, float]) -> dict[str, str]:
    """Give each group the split that lacks most of its share so far.

    After any number of groups each split has its share within one, and earlier groups keep their split when
    more are added.

    Args:
        groups: in order.
        shares: of the splits; they add up to 1.

    Returns:
        The split of each group.
    """
    taken = dict.fromkeys(shares, 0)
    split_of = {}
    for i, group in enumerate(groups, start=1):
        lacking = {split: round(share * i - taken[split], 9) for split, share in shares.items()}
        split_of[group] = max(lacking, key=lambda split: lacking[split])
        taken[split_of[group]] += 1
    return split_of


def _classes(config: CorpusConfig, splits: Sequence[str]) -> list[str | None]:
    """Return the class of each slide; each split has its share of each class.

    Args:
        config: of the corpus.
        splits: of the slides, in order.
    """
    shares = parse_classes(config.classes)
    if not shares:
        return [None] * len(splits)
    slides: dict[str, list[str]] = {}
    for i, split in enumerate(splits):
        slides.setdefault(split, []).append(str(i))
    found = {i: label for members in slides.values() for i, label in assign(members, shares).items()}
    return [found[str(i)] for i in range(len(splits))]


def _overviews(paths: Sequence[str]) -> dict[str, Path]:
    """Return the overviews by their names, in order."""
    found: dict[str, Path] = {}
    for text in paths:
        path = Path(text)
        inside = find_slides(path)
        for name, file in sorted(inside.items()):
            if name in found:
                raise InvalidValueError(
                    f"--overview: {file} and {found[name]} have the same name; rename one"
                )
            found[name] = file
    return found
