"""A report with its plots, drawn once."""

from __future__ import annotations

import pytest

from tests.evaluate.report.reports import report
from wsigen.evaluate.report import illustrated
from wsigen.evaluate.results import Report


@pytest.fixture(scope="session")
def pictured() -> Report:
    """The report by hand, with its plots."""
    return illustrated(report())
