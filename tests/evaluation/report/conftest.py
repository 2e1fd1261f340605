"""A report with its plots, drawn once."""

from __future__ import annotations

import pytest

from tests.evaluation.report.reports import report
from wsigen.evaluation.report.plots import illustrated
from wsigen.evaluation.results import Report


@pytest.fixture(scope="session")
def pictured() -> Report:
    """The report by hand, with its plots."""
    return illustrated(report())
