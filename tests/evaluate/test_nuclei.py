"""Sets are compared by the nuclei that were planted in them."""

from __future__ import annotations

import numpy as np
import pytest

from wsigen.evaluate.nuclei import compare_nuclei
from wsigen.slide.nuclei import Nuclei


def test_sets_compare_by_density_and_size():
    rng = np.random.default_rng(1)

    def patches(mean_count: float, area: float) -> list[Nuclei]:
        counts = rng.poisson(mean_count, 60)
        return [Nuclei(float(c), rng.normal(area, 5, c), 0.01) for c in counts]

    result = compare_nuclei(patches(20, 60), patches(40, 50))
    assert result.density[0].value == pytest.approx(2000, rel=0.05)
    assert result.density[1].value == pytest.approx(4000, rel=0.05)
    assert result.density[0].high < result.density[1].low
    assert [e.value for e in result.median_area] == pytest.approx([60, 50], abs=1)
    assert result.size_distance.value == pytest.approx(10, abs=1)
    assert result.size_distance.low > 8


def test_sets_without_nuclei_have_no_sizes():
    empty = [Nuclei(0.0, np.empty(0), 0.01)] * 6
    result = compare_nuclei(empty, empty)
    assert result.density[0].value == 0
    assert np.isnan(result.size_distance.value)
