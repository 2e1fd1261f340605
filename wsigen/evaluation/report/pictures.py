"""Pictures of a report: patches in a row, and pairs one above the other, as JPEGs."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import cv2
import numpy as np

from wsigen.data.index import SlideEntry
from wsigen.errors import SlideError
from wsigen.evaluation.comparison import turn_of_each
from wsigen.evaluation.copies import Neighbour, SimilarSlides, overview
from wsigen.evaluation.patches import Patches
from wsigen.evaluation.spots import Reader

CELL, GAP, SHOWN = 256, 6, 6
_QUALITY = 88


def strip(patches: Patches, *, seed: int, shown: int = SHOWN) -> bytes:
    """Show some of the whole patches of a set in one row, of different slides where possible."""
    order = np.random.default_rng([seed, 0x57]).permutation(sorted(patches.samples))
    turns = turn_of_each([patches.groups[i] for i in order])
    chosen = [int(order[i]) for i in np.argsort(turns, kind="stable")[:shown]]
    return row([patches.samples[i] for i in chosen])


def row(images: Sequence[np.ndarray]) -> bytes:
    """Put square pictures side by side, each 256 px or less."""
    side = min(CELL, max(i.shape[0] for i in images))
    cells = [_fit(i, side) for i in images]
    gap = np.full((side, GAP, 3), 255, np.uint8)
    line = [part for cell in cells for part in (cell, gap)][:-1]
    return to_jpeg(np.concatenate(line, axis=1))


def neighbour_sheet(neighbours: Sequence[Neighbour], slides: Sequence[SlideEntry], reader: Reader) -> bytes:
    """Show patches in the upper row, turned as they match, and the real place below each."""
    return pair_sheet([_pair(n, slides[n.slide], reader) for n in neighbours])


def overview_sheet(similar: Sequence[SimilarSlides]) -> bytes:
    """Show whole slides in the upper row, turned as they match; below each the real slide most like it."""
    pairs = [(turn(overview(one.ours), one.orientation), overview(one.theirs)) for one in similar]
    return pair_sheet([(_square(upper), _square(lower)) for upper, lower in pairs])


def turn(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turn a picture to one of the 8 orientations, as `Nearest` counts them."""
    return np.ascontiguousarray(np.rot90(image[:, ::-1] if orientation >= 4 else image, orientation % 4))


def _square(image: np.ndarray) -> np.ndarray:
    """Put a picture of any shape into the middle of a white square of 256 px."""
    scale = CELL / max(image.shape[:2])
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    y, x = (CELL - height) // 2, (CELL - width) // 2
    out = np.full((CELL, CELL, 3), 255, np.uint8)
    out[y : y + height, x : x + width] = cv2.resize(image, (width, height), interpolation=how)
    return out


def pair_sheet(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> bytes:
    """Show pairs of square pictures, one above the other."""
    side = min(CELL, pairs[0][0].shape[0])
    beside, between = (np.full(s, 255, np.uint8) for s in ((2 * side + GAP, GAP, 3), (GAP, side, 3)))
    line: list[np.ndarray] = []
    for upper, lower in pairs:
        line += [np.concatenate([_fit(upper, side), between, _fit(lower, side)]), beside]
    return to_jpeg(np.concatenate(line[:-1], axis=1))


def _pair(neighbour: Neighbour, slide: SlideEntry, reader: Reader) -> tuple[np.ndarray, np.ndarray]:
    spot = neighbour.spot
    mpp = max(spot.mpp, slide.mpp)  # a place may have been found on a slide that has no such detail
    side = max(1, round(spot.size * spot.mpp / mpp))
    theirs = np.full((side, side, 3), 255, np.uint8)
    with contextlib.suppress(SlideError):  # it was found on a coarser level, and may be damaged on this one
        theirs = reader.at(slide, neighbour.centre, mpp, side)
    return turn(reader(spot), neighbour.orientation), theirs


def to_jpeg(image: np.ndarray) -> bytes:
    """Encode a uint8 (height, width, 3) picture."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()


def _fit(image: np.ndarray, side: int) -> np.ndarray:
    if image.shape[0] == side:
        return image
    how = cv2.INTER_AREA if image.shape[0] > side else cv2.INTER_NEAREST
    return cv2.resize(image, (side, side), interpolation=how)
