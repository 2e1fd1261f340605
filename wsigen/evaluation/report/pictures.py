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
    return sheet([[patches.samples[i]] for i in chosen])


def sheet(columns: Sequence[Sequence[np.ndarray]]) -> bytes:
    """Put columns of square pictures side by side, each picture 256 px or less."""
    side = min(CELL, max(image.shape[0] for column in columns for image in column))
    gap = ((0, GAP), (0, GAP), (0, 0))
    cells = [[np.pad(_fit(image, side), gap, constant_values=255) for image in column] for column in columns]
    # without the gap behind the last column and row
    return to_jpeg(np.concatenate([np.concatenate(column) for column in cells], axis=1)[:-GAP, :-GAP])


def neighbour_sheet(neighbours: Sequence[Neighbour], slides: Sequence[SlideEntry], reader: Reader) -> bytes:
    """Show patches in the upper row, turned as they match, and the real place below each."""
    return sheet([_pair(n, slides[n.slide], reader) for n in neighbours])


def overview_sheet(similar: Sequence[SimilarSlides]) -> bytes:
    """Show whole slides in the upper row, turned as they match; below each the real slide most like it."""
    pairs = [(turn(overview(one.ours), one.orientation), overview(one.theirs)) for one in similar]
    return sheet([(_square(upper), _square(lower)) for upper, lower in pairs])


def turn(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turn a picture to one of the 8 orientations, as `Nearest` counts them."""
    return np.ascontiguousarray(np.rot90(image[:, ::-1] if orientation >= 4 else image, orientation % 4))


def _square(image: np.ndarray) -> np.ndarray:
    """Put a picture of any shape into the middle of a white square of 256 px."""
    scale = CELL / max(image.shape[:2])
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    y, x = CELL - height, CELL - width
    white = ((y // 2, y - y // 2), (x // 2, x - x // 2), (0, 0))
    return np.pad(cv2.resize(image, (width, height), interpolation=how), white, constant_values=255)


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
