"""Is a value within the real-vs-real range, and can that range judge at all?

The floor of a measure is its value between halves of the real slides. Where these slides are too few or have
nothing in common, or where the floor's interval holds everything that the measure can be, every set passes:
then there is no verdict. A value that is worse than such a floor is worse all the same; only the verdict
"within real-vs-real range" is withheld.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from wsigen.evaluation.estimate import MIN_GROUPS, Estimate

# 95 % half-widths up to which a value is within the real-vs-real range, and from which it is far outside
WITHIN, OUTSIDE = 1.0, 3.0
DECISIVE = 2.0  # Half-widths from the floor at which a plainly bad value must lie for the floor to judge
FACTOR = 2.0  # Times as much as real that is plainly bad, and times as little
ANY = (-math.inf, math.inf)

VERDICTS = {
    "good": "within real-vs-real range",
    "off": "outside",
    "far": "far outside",
    "none": "no verdict",
}
State = Literal["good", "off", "far", "none"]


@dataclass(frozen=True)
class Metric:
    """One measure of the report.

    Attributes:
        section: of `wsigen.evaluation.topics.SECTIONS`.
        key: its name in report.json.
        title: its name in tables.
        better: "lower", "higher", or "same" as between real and real.
        good: what a good value is.
        source: the definition, or where it is published.
        unit: of the value.
        bounds: range of the measure, to which intervals are clipped.
        ideal: of "same", a best value: nearer to it than the real slides is no worse.
        bad: a value that is bad by any standard: a floor that would let it pass cannot judge. None: the worse
            end of ``bounds``, or twice as much (or half as much) as real. Infinite: none is known.
    """

    section: str
    key: str
    title: str
    better: Literal["lower", "higher", "same"] = "same"
    good: str = "as in the real slides"
    source: str = ""
    unit: str = ""
    bounds: tuple[float, float] = (0.0, math.inf)
    ideal: float | None = None
    bad: float | None = None


@dataclass(frozen=True)
class Verdict:
    """The judgement of a value.

    Attributes:
        state: "good" (within the real-vs-real range), "off" (outside), "far" (far outside), or "none".
        why: of "none", what keeps the floor from judging.
    """

    state: State
    why: str = ""

    def __str__(self) -> str:
        return f"{VERDICTS[self.state]}: {self.why}" if self.why else VERDICTS[self.state]


def excess(metric: Metric, value: Estimate | None, floor: Estimate | None) -> float | None:
    """Return how much worse than the floor a value is, in half-widths of both 95 % intervals together.

    The half-widths are those of the sides that face each other. None without a floor or an interval.
    """
    if value is None or floor is None:
        return None
    apart = value.value - floor.value
    if not math.isfinite(apart):
        return None
    worse = {"lower": apart, "higher": -apart, "same": abs(apart)}[metric.better]
    if metric.ideal is not None:
        worse = abs(value.value - metric.ideal) - abs(floor.value - metric.ideal)
    if worse == 0:
        return 0.0
    # the ends of the intervals that face each other
    up, down = (floor, value) if apart > 0 else (value, floor)
    width = math.hypot(up.high - up.value, down.value - down.low)
    return worse / width if width > 0 and math.isfinite(width) else None


def verdict(
    metric: Metric, value: Estimate | None, floor: Estimate | None, cases: int | None = None
) -> Verdict:
    """Judge a value by its floor.

    Args:
        metric: of the value.
        value: with its interval; None where it was not measured.
        floor: the same between real and real; None where there is none.
        cases: real slides or cases behind the floor; None where their number does not matter.
    """
    if value is None or not math.isfinite(value.value):
        return Verdict("none", "not measured")
    if floor is None or not math.isfinite(floor.value):
        return Verdict("none", "no floor")
    found = excess(metric, value, floor)
    if found is None:
        return Verdict("none", "no interval")
    if found > WITHIN:
        return Verdict("off" if found <= OUTSIDE else "far")
    why = _undecided(metric, value, floor, cases)
    return Verdict("none", why) if why else Verdict("good")


def _undecided(metric: Metric, value: Estimate, floor: Estimate, cases: int | None) -> str:
    """Return why a floor would let anything pass; empty where it would not."""
    if cases is not None and cases < MIN_GROUPS:
        return "one real case" if cases == 1 else f"{cases} real cases"
    bad = _plainly_bad(metric, value, floor)
    if bad is None:
        return ""
    # would the floor tell a plainly bad value with the interval of this one?
    by = bad - value.value
    shifted = replace(value, value=bad, low=value.low + by, high=value.high + by)
    reach = excess(metric, shifted, floor)
    if reach is None or reach >= DECISIVE:
        return ""
    return f"even {bad:.3g} would be {max(reach, 0.0):.1f} ×"


def _plainly_bad(metric: Metric, value: Estimate, floor: Estimate) -> float | None:
    """Return the least bad of the plainly bad values, on the side where the value lies."""
    low, high = metric.bounds
    if metric.bad is not None:
        known = metric.bad
    elif metric.better == "higher":
        known = low
    elif metric.better == "lower" and math.isfinite(high):
        known = high
    else:
        centre = floor.value if metric.ideal is None else metric.ideal
        if centre <= 0:
            return None
        # on the side of the floor where the value lies
        above = metric.better == "lower" or value.value >= floor.value
        known = min(high, FACTOR * centre) if above else centre / FACTOR
    return known if math.isfinite(known) else None
