"""Planted nuclei are counted, measured and parted."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tests.slide.test_stains import stained
from wsigen.errors import InvalidValueError
from wsigen.slide.nuclei import find_nuclei, label_nuclei


def disks(centres, radius_um: float, mpp: float, extent_um: float = 100) -> np.ndarray:
    """Coverage by disks, anti-aliased, at a given µm/px."""
    side = round(extent_um / mpp)
    y, x = (np.mgrid[:side, :side] + 0.5) * mpp
    depth = np.max([radius_um - np.hypot(y - cy, x - cx) for cy, cx in centres], axis=0)
    return np.clip(depth / mpp + 0.5, 0, 1)


def tissue(coverage: np.ndarray, stains: str = "h-e") -> np.ndarray:
    grain = 0.02 * np.random.default_rng(0).random(coverage.shape)
    other = 0.25 + grain
    h = 0.05 + 0.5 * coverage + grain
    return stained(h, other, 0) if stains == "h-e" else stained(h, 0, other)


GRID = [(y, x) for y in range(12, 100, 19) for x in range(12, 100, 19)]


@pytest.mark.parametrize(("mpp", "stains"), [(0.25, "h-e"), (0.5, "h-e"), (0.5, "h-dab"), (0.9, "h-e")])
def test_separate_nuclei_are_counted_and_measured(mpp, stains):
    found = find_nuclei(tissue(disks(GRID, 4, mpp), stains), mpp, stains=stains)
    assert found.count == len(GRID) == 25
    assert len(found.areas) == 25
    np.testing.assert_allclose(found.areas, np.pi * 16, rtol=0.2)
    assert found.extent == pytest.approx(0.01, rel=0.03)


def test_touching_nuclei_are_parted():
    centres = [c for y, x in GRID[::3] for c in ((y, x), (y, x + 6.5))]
    found = find_nuclei(tissue(disks(centres, 4, 0.5)), 0.5)
    assert found.count == len(centres)


def test_a_nucleus_at_the_edge_is_half_and_has_no_size():
    found = find_nuclei(tissue(disks([(50, 50), (0, 50), (50, 100)], 5, 0.5)), 0.5)
    assert found.count == 2
    np.testing.assert_allclose(found.areas, [np.pi * 25], rtol=0.15)


def test_vesicles_are_filled_and_large_gaps_are_not():
    hollow = disks(GRID, 5, 0.5) - disks(GRID, 1.5, 0.5)
    np.testing.assert_allclose(find_nuclei(tissue(hollow), 0.5).areas, np.pi * 25, rtol=0.2)
    ring = cv2.GaussianBlur(disks([(50, 50)], 20, 0.5) - disks([(50, 50)], 15, 0.5), (0, 0), 1)
    assert (label_nuclei(tissue(ring), 0.5)[95:105, 95:105] == 0).all()


def test_specks_and_blank_patches_have_no_nuclei():
    assert find_nuclei(tissue(disks(GRID, 1, 0.5)), 0.5).count == 0
    assert find_nuclei(tissue(np.zeros((128, 128))), 0.5).count == 0
    assert find_nuclei(np.full((64, 64, 3), 255, np.uint8), 0.5).count == 0


def test_blue_cytoplasm_does_not_swallow_nuclei():
    gland = disks([(50, 50)], 40, 0.5)
    image = stained(0.05 + 0.2 * gland + 0.3 * disks(GRID, 4, 0.5), 0.2, 0)
    within = [c for c in GRID if np.hypot(c[0] - 50, c[1] - 50) < 34]
    labels = label_nuclei(image, 0.5)
    at_centres = [labels[int(y / 0.5), int(x / 0.5)] for y, x in within]
    assert min(at_centres) > 0
    assert len(set(at_centres)) == len(within)


def test_labels_have_no_gaps():
    labels = label_nuclei(tissue(disks(GRID, 4, 0.5)), 0.5)
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(np.unique(labels), np.arange(26))


def test_too_coarse_images_are_refused():
    with pytest.raises(InvalidValueError, match="at most 1 µm/px, got 2"):
        find_nuclei(np.full((64, 64, 3), 200, np.uint8), 2.0)


@pytest.mark.parametrize("turn", [lambda a: a[::-1], lambda a: np.rot90(a), lambda a: a[:, ::-1]])
def test_orientation_does_not_matter(turn):
    rng = np.random.default_rng(2)
    image = tissue(disks(rng.uniform(8, 92, (22, 2)), 4, 0.5))
    plain, other = find_nuclei(image, 0.5), find_nuclei(np.ascontiguousarray(turn(image)), 0.5)
    assert abs(other.count - plain.count) <= 1
    assert np.median(other.areas) == pytest.approx(np.median(plain.areas), rel=0.05)


@pytest.mark.parametrize("radius", [2.5, 4.0, 6.0])
def test_areas_follow_the_size_of_nuclei(radius):
    areas = find_nuclei(tissue(disks(GRID, radius, 0.25)), 0.25).areas
    assert np.median(areas) == pytest.approx(np.pi * radius**2, rel=0.12)


def test_paler_staining_does_not_change_the_count():
    coverage = disks(GRID, 4, 0.5)
    counts = [find_nuclei(stained(0.04 + depth * coverage, 0.2, 0), 0.5).count for depth in (0.2, 0.4, 0.8)]
    assert counts == [25, 25, 25]
