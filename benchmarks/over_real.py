"""A few figures of patches, and those of one set over those of another: octaves, phase, colour, nuclei."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from wsigen.evaluation.phase import MOMENTS, PAIRS, phase, relief
from wsigen.evaluation.spectrum import BANDS, band_powers
from wsigen.slide.nuclei import COARSEST_MPP, find_nuclei
from wsigen.slide.stains import saturation, stain_densities

ROWS = {
    **{f"octave{k}": f"power, {2 ** (k + 1) if k else 1.4:g}–{2 ** (k + 2)} px" for k in range(BANDS)},
    "checkerboard": "checkerboard",
    "coherence": "coherence",
    **{f"edges{k}": f"edges, octaves {k} and {k + 1}" for k in range(PAIRS)},
    "relief": "relief, made",
    "relief_real": "relief, real",
    "grid": "pattern of 8 px, made",
    "grid_real": "pattern of 8 px, real",
    "rows": "power along the axes over the diagonals",
    "saturation": "saturation",
    "haematoxylin": "haematoxylin, mean",
    "nuclei_density": "nuclei per mm²",
    "nuclei_area": "median area of a nucleus",
}
"""Keys of a comparison, and what tables call them."""


@dataclass(frozen=True)
class Figures:
    """Means over patches; values by key, and the sums from which relief follows."""

    values: dict[str, float]
    moments: np.ndarray
    patches: int


@dataclass(frozen=True)
class Ratios:
    """Figures of one set over those of another.

    Attributes:
        values: by the keys of `ROWS`; all but relief and pattern are ratios.
        cases: how many were compared.
        patches: of the set, and of the other.
    """

    values: dict[str, float]
    cases: int
    patches: tuple[int, int]

    def cell(self, key: str) -> str:
        """What stands in a table."""
        value = self.values.get(key)
        return "–" if value is None or not math.isfinite(value) else f"{value:.2f}"

    def as_dict(self) -> dict[str, Any]:
        """As JSON-like values."""
        finite = {k: round(v, 4) if math.isfinite(v) else None for k, v in self.values.items()}
        return {**finite, "cases": self.cases, "patches": list(self.patches)}


def figures(patches: Sequence[np.ndarray], mpp: float) -> Figures | None:
    """Look at patches, uint8 (h, w, 3) each; None where there are none."""
    if not patches:
        return None
    seen = [phase(p, mpp) for p in patches]
    powers = np.mean([band_powers(p) for p in patches], axis=0)
    values = {f"octave{k}": float(powers[k]) for k in range(BANDS)}
    values["checkerboard"] = float(powers[-1] / powers[0])
    values["grid"] = grid(patches)
    values["rows"] = rows_and_columns(patches)
    values["coherence"] = _mean([s.coherence for s in seen])
    values.update({f"edges{k}": _mean([s.edges[k] for s in seen]) for k in range(PAIRS)})
    values["saturation"] = _mean([saturation(p) for p in patches])
    values["haematoxylin"] = _mean([float(stain_densities(p, stains="h-e")[..., 0].mean()) for p in patches])
    if mpp <= COARSEST_MPP:
        found = [find_nuclei(p, mpp) for p in patches]
        values["nuclei_density"] = sum(n.count for n in found) / sum(n.extent for n in found)
        areas = np.concatenate([n.areas for n in found])
        values["nuclei_area"] = float(np.median(areas)) if areas.size else math.nan
    moments = np.sum([s.moments for s in seen], axis=0)
    return Figures(values, moments, len(patches))


def grid(patches: Sequence[np.ndarray], cell: int = 8) -> float:
    """How much of the detail repeats with the grid of a network's resolutions.

    The standard deviation of the mean cell over that of all detail up to the cell's size: 0 for none, 1 for
    nothing else. Of n cells that repeat nothing it is about 1/√n.

    Args:
        patches: uint8 (h, w, 3) each, cut at multiples of ``cell`` px, which h and w are too.
        cell: period, px.
    """
    sums, square, count = np.zeros((cell, cell)), 0.0, 0
    for patch in patches:
        lightness = patch.mean(axis=2, dtype=np.float32)
        detail = lightness - cv2.blur(lightness, (cell + 1, cell + 1))
        rows, columns = (n // cell for n in detail.shape)
        sums += detail.reshape(rows, cell, columns, cell).sum(axis=(0, 2))
        square += float(np.square(detail).sum())
        count += rows * columns
    spread = math.sqrt(square / (count * cell * cell))
    return float((sums / count).std() / spread) if spread else 0.0


def rows_and_columns(patches: Sequence[np.ndarray], band: tuple[float, float] = (0.12, 0.25)) -> float:
    """Mean power along the axes over that along the diagonals: above 1 where cells are packed in rows.

    Args:
        patches: uint8 (h, w, 3) each.
        band: lowest and highest frequency, cycles per pixel: by default wavelengths of 4 to 8 px.
    """
    along = across = 0.0
    for patch in patches:
        h, w = patch.shape[:2]
        lightness = patch.mean(axis=2, dtype=np.float32)
        window = np.hanning(h)[:, None] * np.hanning(w)
        power = np.abs(np.fft.fft2((lightness - lightness.mean()) * window)) ** 2
        fy, fx = np.fft.fftfreq(h)[:, None], np.fft.fftfreq(w)
        radius, angle = np.hypot(fy, fx), np.degrees(np.arctan2(np.abs(fy), np.abs(fx)))
        ring = (radius >= band[0]) & (radius < band[1])
        along += float(power[ring & (np.minimum(angle, 90 - angle) < 15)].mean())
        across += float(power[ring & (np.abs(angle - 45) < 15)].mean())
    return along / across if across else math.nan


def mean(parts: Sequence[Figures]) -> Figures:
    """Of several cases, each as much as the others."""
    values = {key: _mean([p.values[key] for p in parts]) for key in parts[0].values}
    moments = np.mean([p.moments / max(p.moments[0], 1.0) for p in parts], axis=0)
    assert moments.shape == (MOMENTS,)
    return Figures(values, moments, sum(p.patches for p in parts))


def ratios(ours: Figures, theirs: Figures, cases: int) -> Ratios:
    """One over the other; relief and pattern as they are."""
    values = {k: v / theirs.values[k] if theirs.values[k] else math.nan for k, v in ours.values.items()}
    values["grid"], values["grid_real"] = ours.values["grid"], theirs.values["grid"]
    values["relief"], values["relief_real"] = relief(ours.moments), relief(theirs.moments)
    return Ratios(values, cases, (ours.patches, theirs.patches))


def _mean(values: Sequence[float]) -> float:
    known = [v for v in values if math.isfinite(v)]
    return float(np.mean(known)) if known else math.nan
