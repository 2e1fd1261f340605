"""Seam score: whether the joints of a patch grid can be seen in an image.

For a pitch P, every line y ≡ φ (mod P) is a possible joint. E(φ) is the size of the step across all lines
of phase φ; most phases are no joints, so the null distribution is built in: ratio = E(joint) / median E, 1
for no seam.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wsigen.errors import InvalidValueError

STRIP, SEGMENT = 8, 64
_MAD_TO_SIGMA = 1.4826


@dataclass(frozen=True)
class SeamScore:
    """The step across joints, beside that across all other lines.

    Args:
        ratio: E(joint) / median E; 1 = none.
        z: robust z of E(joint) among all phases (by the median absolute deviation).
        energy: E(φ) for φ = 0 … pitch - 1, in grey levels.
    """

    ratio: float
    z: float
    energy: np.ndarray


def step8(
    image: np.ndarray, pitch: int, *, joints: Sequence[int] = (0,), axis: int = 0, origin: int = 0
) -> SeamScore:
    """The seam score of one direction.

    E(φ) is the root mean square, over segments of 64 px along all lines of phase φ and over channels, of the
    detrended difference of the 8-px strips on either side: with four consecutive strips a, b | c, d it is
    (c - b) - ((b - a) + (d - c))/2, so that gradients do not count. (A one-pixel jump misses joints that
    later steps have smoothed.)

    Args:
        image: uint8 or float (height, width) or (height, width, channels).
        pitch: distance of joints in pixels, at least 2.
        joints: their phases, in pixels of the canvas: the offsets of the patch grid. Several count together.
        axis: 0 for joints between rows, 1 between columns.
        origin: position of the image's first row (or column) on the canvas.

    Raises:
        InvalidValueError: the image is too small: it needs more than one pitch and a segment.
    """
    lines = np.moveaxis(image, axis, 0).reshape(image.shape[axis], image.shape[1 - axis], -1)
    if pitch < 2 or len(lines) < pitch + 4 * STRIP or lines.shape[1] < SEGMENT:
        raise InvalidValueError(
            f"an image must be at least pitch + {4 * STRIP} across joints and {SEGMENT} px along them, got "
            f"{len(lines)} and {lines.shape[1]} for pitch {pitch}"
        )
    energy = _energy(_steps(_segments(lines)), pitch, origin + 2 * STRIP)
    at_joints = float(np.sqrt(np.mean(energy[[j % pitch for j in joints]] ** 2)))
    median = float(np.median(energy))
    spread = _MAD_TO_SIGMA * float(np.median(np.abs(energy - median)))
    if median == 0:
        return SeamScore(1.0 if at_joints == 0 else float("inf"), 0.0, energy)
    return SeamScore(at_joints / median, (at_joints - median) / max(spread, 1e-12), energy)


def seam_ratio(
    image: np.ndarray, pitch: int, *, rows: Sequence[int] = (0,), cols: Sequence[int] = (0,)
) -> float:
    """Both directions of `step8` in one number, the root mean square of their ratios; 1 = none.

    Args:
        image: uint8 or float (height, width) or (height, width, channels).
        pitch: distance of joints in pixels.
        rows: phases of the joints between rows.
        cols: phases of the joints between columns.
    """
    ratios = [step8(image, pitch, joints=joints, axis=axis).ratio for axis, joints in ((0, rows), (1, cols))]
    return float(np.sqrt(np.mean(np.square(ratios))))


def _segments(lines: np.ndarray) -> np.ndarray:
    """Means over segments of 64 px along each line: (lines, segments · channels)."""
    count = lines.shape[1] // SEGMENT
    whole = lines[:, : count * SEGMENT].reshape(len(lines), count, SEGMENT, -1)
    return whole.mean(axis=2, dtype=np.float64).reshape(len(lines), -1)


def _steps(segments: np.ndarray) -> np.ndarray:
    """The detrended step at every line that has two strips on either side."""
    sums = np.concatenate([np.zeros_like(segments[:1]), np.cumsum(segments, axis=0)])
    strips = (sums[STRIP:] - sums[:-STRIP]) / STRIP
    difference = strips[STRIP:] - strips[:-STRIP]
    return difference[STRIP:-STRIP] - (difference[: -2 * STRIP] + difference[2 * STRIP :]) / 2


def _energy(steps: np.ndarray, pitch: int, first: int) -> np.ndarray:
    """Root mean square of the steps by phase; ``first`` is the position of the first line."""
    squares = np.square(steps).mean(axis=1)
    phase = (first + np.arange(len(squares))) % pitch
    return np.sqrt(np.bincount(phase, squares, pitch) / np.bincount(phase, minlength=pitch))
