"""Whole slides as pictures: is one of the set a copy of a real one?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wsigen.data.entry import SlideEntry
from wsigen.errors import SlideError
from wsigen.evaluate.collect import heeding
from wsigen.evaluate.fingerprint import fingerprints, nearest_fingerprints
from wsigen.evaluate.joins.privacy import share
from wsigen.evaluate.privacy import find_copies
from wsigen.evaluate.results import Result
from wsigen.evaluate.sets import SlideSet
from wsigen.geometry import Region

LONGEST = 256
MOST = 500


def overview_rows(ours: SlideSet, real: SlideSet, train: SlideSet | None) -> list[Result]:
    """Copies among the overviews of a set; unrelated are real slides of different groups.

    Args:
        ours: the set.
        real: held-out slides.
        train: what the model learnt from; None: copies of ``real`` are looked for.
    """
    gallery = real if train is None else train
    (mine, _), (theirs, labels), (others, groups) = (_prints(s.entries) for s in (ours, gallery, real))
    near = nearest_fingerprints(mine, theirs).distance
    apart = {"query_slides": groups, "gallery_slides": labels} if train is None else {}
    null = nearest_fingerprints(others, theirs, **apart).distance
    null = null[np.isfinite(null)]
    found, cautions = heeding(lambda: find_copies(near, null))
    samples = f"{len(mine)} slides, {len(theirs)} real ones"
    value = None if found is None else share(len(found.flagged), len(mine))
    floor = None if found is None else share(0, len(null))
    return [Result("overview_copies", None, value, floor, samples, cautions)]


def overview(entry: SlideEntry, longest: int = LONGEST) -> np.ndarray:
    """The whole slide, its longer side at most ``longest`` px; never enlarged."""
    mpp = max(entry.mpp, entry.mpp * max(entry.height, entry.width) / longest)
    height, width = (max(1, int(side * entry.mpp / mpp)) for side in (entry.height, entry.width))
    return entry.open().read_region(Region(0, 0, height, width), mpp, entry.background)


def _prints(entries: Sequence[SlideEntry]) -> tuple[np.ndarray, np.ndarray]:
    pictures, groups = [], []
    for entry in entries[:MOST]:
        try:
            picture = overview(entry)
        except SlideError:
            continue
        if min(picture.shape[:2]) >= 32:
            pictures.append(picture)
            groups.append(entry.group)
    return fingerprints(pictures), np.array(groups)
