"""Whole slides as pictures: is one of the set a copy of a real one?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wsigen.data.index import SlideEntry
from wsigen.errors import SlideError
from wsigen.evaluate.collect import heeding
from wsigen.evaluate.fingerprint import SIDE, fingerprint, nearest_fingerprints
from wsigen.evaluate.joins.privacy import share
from wsigen.evaluate.privacy import find_copies
from wsigen.evaluate.results import Result
from wsigen.evaluate.sets import SlideSet
from wsigen.geometry import Region

LONGEST = 256
MOST, SHOWN = 500, 6


@dataclass(frozen=True)
class Alike:
    """A slide of the set, and the real one that it is most like as a whole.

    Attributes:
        ours: of the set.
        theirs: the real one.
        orientation: how ours is turned to match, as of `Nearest`.
        distance: 1 - correlation of fingerprints.
    """

    ours: SlideEntry
    theirs: SlideEntry
    orientation: int
    distance: float


def overview_rows(ours: SlideSet, real: SlideSet, train: SlideSet | None) -> tuple[list[Result], list[Alike]]:
    """Copies among the overviews of a set; unrelated are real slides of different groups.

    Args:
        ours: the set.
        real: held-out slides.
        train: what the model learnt from; None: copies of ``real`` are looked for.

    Returns:
        A row of the report; and the slides that are most like a real one, nearest first.
    """
    gallery = real if train is None else train
    (mine, seen), (theirs, known), (others, held) = (_prints(s.entries) for s in (ours, gallery, real))
    if not len(mine) or not len(theirs):
        note = "not measured: slides are smaller than 32 px as a whole, or cannot be read"
        return [Result("overview_copies", None, None, None, "", (note,))], []
    near = nearest_fingerprints(mine, theirs)
    groups, labels = (np.array([e.group for e in entries]) for entries in (held, known))
    apart = {"query_slides": groups, "gallery_slides": labels} if train is None else {}
    null = nearest_fingerprints(others, theirs, **apart).distance
    null = null[np.isfinite(null)]
    found, cautions = heeding(lambda: find_copies(near.distance, null))
    samples = f"{len(mine)} slides, {len(theirs)} real ones"
    value = None if found is None else share(len(found.flagged), len(mine))
    floor = None if found is None else share(0, len(null))
    alike = [
        Alike(seen[i], known[int(near.index[i])], int(near.orientation[i]), float(near.distance[i]))
        for i in np.argsort(near.distance, kind="stable")[:SHOWN]
    ]
    return [Result("overview_copies", None, value, floor, samples, cautions)], alike


def overview(entry: SlideEntry, longest: int = LONGEST) -> np.ndarray:
    """The whole slide, its longer side at most ``longest`` px; never enlarged."""
    mpp = max(entry.mpp, entry.mpp * max(entry.height, entry.width) / longest)
    height, width = (max(1, int(side * entry.mpp / mpp)) for side in (entry.height, entry.width))
    return entry.open().read_region(Region(0, 0, height, width), mpp, entry.background)


def _prints(entries: Sequence[SlideEntry]) -> tuple[np.ndarray, list[SlideEntry]]:
    prints, seen = [], []
    for entry in entries[:MOST]:
        try:
            picture = overview(entry)
        except SlideError:
            continue
        if min(picture.shape[:2]) >= SIDE:
            prints.append(fingerprint(picture))
            seen.append(entry)
    return np.stack(prints) if prints else np.empty((0, SIDE, SIDE), np.float32), seen
