"""Numbers and verdicts as the page shows them."""

from __future__ import annotations

import math

from wsigen.evaluate.estimate import Estimate
from wsigen.evaluate.verdict import VERDICTS, Verdict


def number(value: float | None) -> str:
    """Three significant digits, without an exponent where it is avoidable; a dash for what is no number."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{digits}f}" if digits <= 7 else f"{value:.2e}"
    return text.replace("-", "−")


def interval(estimate: Estimate | None) -> str:
    """The 95 % interval; nothing where it has no width."""
    if estimate is None or not estimate.low < estimate.high:
        return ""
    return f"{number(estimate.low)} … {number(estimate.high)}"


def judged(verdict: Verdict) -> str:
    """The verdict in words, and what keeps it from being one."""
    said = VERDICTS[verdict.state]
    return f"{said}: {verdict.why}" if verdict.why else said


def times(excess: float | None) -> str:
    """The distance from the floor in words."""
    if excess is None:
        return ""
    return f"{max(excess, 0.0):.1f} ×"
