"""Is a value as between real and real, and can real against real tell at all?

A floor is what a measure gives between halves of the real slides. Where these are too few or have nothing in
common, or where its interval holds everything that the measure can be, any set passes: then there is no
verdict. A value that is worse than such a floor is worse all the same; so only "as real" is withheld.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from wsigen.evaluate.catalogue.measure import Measure
from wsigen.evaluate.estimate import MIN_GROUPS, Estimate

CHANCE, FAR = 1.0, 3.0
"""Half-widths up to which a value is as real, and beyond which it is far off."""
TELLING = 2.0
"""Half-widths from the floor at which a plainly bad value must be for the floor to tell good from bad."""
FACTOR = 2.0
"""So many times as much as real is plainly bad, and so many times as little."""

VERDICTS = {"good": "as real", "off": "off", "far": "far off", "none": "no verdict"}
State = Literal["good", "off", "far", "none"]


@dataclass(frozen=True)
class Verdict:
    """What a value is worth.

    Attributes:
        state: "good" (as real), "off", "far", or "none".
        why: of "none", what keeps the floor from judging.
    """

    state: State
    why: str = ""


def excess(measure: Measure, value: Estimate | None, floor: Estimate | None) -> float | None:
    """How much worse than the floor, in half-widths of both intervals together; at most 1 is chance.

    The half-widths are those of the sides that face each other. None without a floor or an interval.
    """
    if value is None or floor is None:
        return None
    apart = value.value - floor.value
    if not math.isfinite(apart):
        return None
    worse = {"lower": apart, "higher": -apart, "same": abs(apart)}[measure.better]
    if measure.ideal is not None:
        worse = abs(value.value - measure.ideal) - abs(floor.value - measure.ideal)
    if worse == 0:
        return 0.0
    up, down = (floor, value) if apart > 0 else (value, floor)
    width = math.hypot(up.high - up.value, down.value - down.low)
    return worse / width if width > 0 and math.isfinite(width) else None


def verdict(
    measure: Measure, value: Estimate | None, floor: Estimate | None, cases: int | None = None
) -> Verdict:
    """Judge a value by its floor.

    Args:
        measure: which.
        value: with its interval; None where there is none.
        floor: the same between real and real; None where there is none.
        cases: real slides or cases that the floor is of; None where their number does not matter.
    """
    if value is None or not math.isfinite(value.value):
        return Verdict("none", "not measured")
    if floor is None or not math.isfinite(floor.value):
        return Verdict("none", "no floor")
    found = excess(measure, value, floor)
    if found is None:
        return Verdict("none", "no interval")
    if found > CHANCE:
        return Verdict("off" if found <= FAR else "far")
    why = _blind(measure, value, floor, cases)
    return Verdict("none", why) if why else Verdict("good")


def _blind(measure: Measure, value: Estimate, floor: Estimate, cases: int | None) -> str:
    """Why a floor would let anything pass; empty where it would not."""
    if cases is not None and cases < MIN_GROUPS:
        return "one real case" if cases == 1 else f"{cases} real cases"
    bad = _plainly_bad(measure, value, floor)
    if bad is None:
        return ""
    by = bad - value.value
    shifted = replace(value, value=bad, low=value.low + by, high=value.high + by)
    reach = excess(measure, shifted, floor)
    if reach is None or reach >= TELLING:
        return ""
    return f"even {bad:.3g} would be {max(reach, 0.0):.1f} ×"


def _plainly_bad(measure: Measure, value: Estimate, floor: Estimate) -> float | None:
    """The least bad of the values that are bad by any standard, on the side where the value lies."""
    low, high = measure.bounds
    if measure.bad is not None:
        known = measure.bad
    elif measure.better == "higher":
        known = low
    elif measure.better == "lower" and math.isfinite(high):
        known = high
    else:
        centre = floor.value if measure.ideal is None else measure.ideal
        if centre <= 0:
            return None
        above = measure.better == "lower" or value.value >= floor.value
        known = min(high, FACTOR * centre) if above else centre / FACTOR
    return known if math.isfinite(known) else None
