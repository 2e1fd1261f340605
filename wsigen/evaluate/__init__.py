"""Measures of what was generated, beside real slides; and the report that joins them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsigen.config.evaluate import EvaluateConfig
    from wsigen.evaluate.results import Report

__all__ = ["evaluate"]


def evaluate(config: EvaluateConfig) -> Report:
    """Compare sets of slides with real ones; write ``report.json`` and ``index.html`` to ``config.out``.

    Args:
        config: what to compare, and where to write.

    Returns:
        The report.

    Raises:
        OutputError: there is a report already, or the folder cannot be written to.
        SlideError: a set has no slide that can be used.
        InvalidValueError: nothing can be compared, or an option that cannot be.
        SnapshotError: the features' weights cannot be had.
    """
    from wsigen.evaluate.inputs import refuse_existing
    from wsigen.evaluate.report.write import write_report
    from wsigen.evaluate.run import measure

    refuse_existing(config)
    report = measure(config)
    write_report(report, config.out)
    return report
