"""Sets are compared by the nuclei that were planted in them."""

from __future__ import annotations

import numpy as np
import pytest

from wsigen.evaluation.nuclei import nuclei_numbers
from wsigen.slide.nuclei import Nuclei


def test_sets_compare_by_density_and_size():
    rng = np.random.default_rng(1)

    def patches(mean_count: float, area: float) -> list[Nuclei]:
        counts = rng.poisson(mean_count, 60)
        return [Nuclei(float(c), rng.normal(area, 5, c), 0.01) for c in counts]

    few, many = patches(20, 60), patches(40, 50)
    assert nuclei_numbers(few, many) == pytest.approx([2000, 60, 10], rel=0.1)
    assert nuclei_numbers(many, few) == pytest.approx([4000, 50, 10], rel=0.1)
    assert nuclei_numbers(few, few)[2] == 0


def test_sets_without_nuclei_have_no_sizes():
    empty = [Nuclei(0.0, np.empty(0), 0.01)] * 6
    density, area, distance = nuclei_numbers(empty, empty)
    assert density == 0
    assert np.isnan([area, distance]).all()
