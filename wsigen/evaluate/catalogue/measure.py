"""What the report knows of a measure, and the questions that measures answer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

ANY = (-math.inf, math.inf)
Better = Literal["lower", "higher", "same"]

SECTIONS = {
    "fidelity": "Do patches look real?",
    "diversity": "Is everything there?",
    "realism": "Can a classifier tell?",
    "spectrum": "Is detail as fine as it should be?",
    "phase": "Is detail in step?",
    "stain": "Are the colours right?",
    "quality": "Sharpness and naturalness",
    "nuclei": "Are nuclei as many and as large?",
    "scale": "Do the scales agree?",
    "seams": "Do joints show?",
    "privacy": "Are training slides given away?",
    "pairs": "Does the IHC twin fit?",
}


@dataclass(frozen=True)
class Measure:
    """One measure.

    Attributes:
        section: of `SECTIONS`.
        title: what the tables call it.
        better: "lower", "higher", or "same" as between real and real.
        good: one plain sentence: what good looks like.
        source: where its definition is from.
        unit: of the value.
        bounds: where intervals end at the latest.
        ideal: of "same", where there is a best value: nearer to it than real ones is no worse.
        bad: a value that is bad by any standard: a floor that would let it pass cannot judge. None: the worse
            end of ``bounds``, or twice as much (or half as much) as real. Infinite: none is known.
    """

    section: str
    title: str
    better: Better
    good: str
    source: str
    unit: str = ""
    bounds: tuple[float, float] = (0.0, math.inf)
    ideal: float | None = None
    bad: float | None = None
