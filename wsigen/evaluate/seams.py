"""Seam score: whether the joints of a patch grid can be seen in an image.

For a pitch P, every line y ≡ φ (mod P) is a possible joint. E(φ) is the size of the step across all lines
of phase φ; most phases are no joints, so the null distribution is built in: ratio = E(joint) / median E, 1
for no seam. `step8` compares strips, for joints of tiles; `jump` compares neighbouring lines, for hard edges
and the 8-px grid of JPEG. `difference` of two tilings of the same image is the strongest check of all.
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
    lines = _lines(image, axis, pitch, 4 * STRIP, SEGMENT)
    return _score(_energy(_steps(_segments(lines), STRIP), pitch, origin + 2 * STRIP), joints)


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


def jump(
    image: np.ndarray, pitch: int, *, joints: Sequence[int] = (0,), axis: int = 0, origin: int = 0
) -> SeamScore:
    """As `step8`, but from single pixels on either side of a line: what a hard edge of one pixel does.

    With four consecutive lines a, b | c, d the jump at a pixel is (c - b) - ((b - a) + (d - c))/2. Detail of
    the image counts too, so soft joints are better seen by `step8`.

    Args:
        image: uint8 or float (height, width) or (height, width, channels).
        pitch: distance of joints in pixels, at least 2.
        joints: their phases on the canvas.
        axis: 0 for joints between rows, 1 between columns.
        origin: position of the image's first row (or column) on the canvas.

    Raises:
        InvalidValueError: the image is too small: it needs one pitch and four lines.
    """
    lines = _lines(image, axis, pitch, 4, 1).astype(np.float32).reshape(image.shape[axis], -1)
    return _score(_energy(_steps(lines, 1), pitch, origin + 2), joints)


def jpeg_grid(image: np.ndarray, *, origin: tuple[int, int] = (0, 0)) -> float:
    """Blockiness of JPEG: the `jump` at multiples of 8 px in both directions, root mean square; 1 = none.

    Args:
        image: uint8 or float (height, width) or (height, width, channels).
        origin: (y, x) of the image on the grid of the blocks.
    """
    ratios = [jump(image, 8, axis=axis, origin=origin[axis]).ratio for axis in (0, 1)]
    return float(np.sqrt(np.mean(np.square(ratios))))


def seam_profile(score: SeamScore, joint: int = 0, reach: int = 32) -> np.ndarray:
    """E / median E on the lines around a joint: flat at 1 where there is no seam, a peak in the middle for
    one.

    Args:
        score: from `step8` or `jump`.
        joint: its phase.
        reach: lines on either side; at most half the pitch.

    Returns:
        float64 (2·reach + 1,).
    """
    pitch = len(score.energy)
    around = (joint + np.arange(-min(reach, pitch // 2), min(reach, pitch // 2) + 1)) % pitch
    return score.energy[around] / max(float(np.median(score.energy)), 1e-12)


@dataclass(frozen=True)
class Difference:
    """How two renderings of one image differ.

    Args:
        largest: largest difference of a value, in the images' unit (grey levels).
        at: (y, x) of it.
        mean: mean absolute difference.
        share: share of the pixels with any difference, in [0, 1].
    """

    largest: float
    at: tuple[int, int]
    mean: float
    share: float


def difference(a: np.ndarray, b: np.ndarray) -> Difference:
    """Largest and mean difference of two renderings: 0 if the tiling does not show.

    Args:
        a: (height, width) or (height, width, channels), say, from one tile size.
        b: the same from another.

    Raises:
        InvalidValueError: the two differ in shape.
    """
    if a.shape != b.shape or a.ndim not in (2, 3) or not a.size:
        raise InvalidValueError(f"renderings must be of one image, got shapes {a.shape} and {b.shape}")
    wide = np.float64 if a.dtype.kind == "f" else np.int32
    apart = np.abs(a.astype(wide) - b.astype(wide)).reshape(*a.shape[:2], -1)
    worst = apart.max(axis=2)
    y, x = np.unravel_index(int(worst.argmax()), worst.shape)
    return Difference(
        float(worst[y, x]), (int(y), int(x)), float(apart.mean()), float(np.count_nonzero(worst) / worst.size)
    )


def _lines(image: np.ndarray, axis: int, pitch: int, across: int, along: int) -> np.ndarray:
    """(lines, positions, channels), checked."""
    lines = np.moveaxis(image, axis, 0).reshape(image.shape[axis], image.shape[1 - axis], -1)
    if pitch < 2 or len(lines) < pitch + across or lines.shape[1] < along:
        raise InvalidValueError(
            f"an image must be at least pitch + {across} px across joints and {along} px along them, got "
            f"{len(lines)} and {lines.shape[1]} for pitch {pitch}"
        )
    return lines


def _score(energy: np.ndarray, joints: Sequence[int]) -> SeamScore:
    pitch = len(energy)
    at_joints = float(np.sqrt(np.mean(energy[[j % pitch for j in joints]] ** 2)))
    median = float(np.median(energy))
    spread = _MAD_TO_SIGMA * float(np.median(np.abs(energy - median)))
    if median == 0:
        return SeamScore(1.0 if at_joints == 0 else float("inf"), 0.0, energy)
    return SeamScore(at_joints / median, (at_joints - median) / max(spread, 1e-12), energy)


def _segments(lines: np.ndarray) -> np.ndarray:
    """Means over segments of 64 px along each line: (lines, segments · channels)."""
    count = lines.shape[1] // SEGMENT
    whole = lines[:, : count * SEGMENT].reshape(len(lines), count, SEGMENT, -1)
    return whole.mean(axis=2, dtype=np.float64).reshape(len(lines), -1)


def _steps(values: np.ndarray, strip: int) -> np.ndarray:
    """The detrended step at every line that has two strips on either side."""
    sums = np.concatenate([np.zeros_like(values[:1]), np.cumsum(values, axis=0)]) if strip > 1 else None
    strips = values if sums is None else (sums[strip:] - sums[:-strip]) / strip
    difference = strips[strip:] - strips[:-strip]
    return difference[strip:-strip] - (difference[: -2 * strip] + difference[2 * strip :]) / 2


def _energy(steps: np.ndarray, pitch: int, first: int) -> np.ndarray:
    """Root mean square of the steps by phase; ``first`` is the position of the first line."""
    squares = np.square(steps).mean(axis=1)
    phase = (first + np.arange(len(squares))) % pitch
    return np.sqrt(np.bincount(phase, squares, pitch) / np.bincount(phase, minlength=pitch))
