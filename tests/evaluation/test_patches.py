"""What is kept of patches is what the measures make of them; threads and batches change nothing."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from tests.evaluation.slides import slide_set, slides
from wsigen.errors import SlideError
from wsigen.evaluation.descriptor import WeightFree
from wsigen.evaluation.patches import join, read_patches
from wsigen.evaluation.phase import phase
from wsigen.evaluation.signatures import signature
from wsigen.evaluation.spectrum import band_powers
from wsigen.evaluation.spots import Reader, spots
from wsigen.slide.stains import density_summary, hue_histogram, saturation, stain_densities


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return slide_set("x", slides(tmp_path_factory.mktemp("observe") / "s", range(2)))


def seen(two, *, size=96, mpp=1.0, count=5, **options):
    where = spots(two.entries, {e.slide: count for e in two.entries}, mpp, size)
    return read_patches(where, Reader(0), WeightFree(), **options)


def test_row_by_row(two):
    found = seen(two)
    assert len(found) == 10
    assert found.groups == ("s0.tif",) * 5 + ("s1.tif",) * 5
    for i in (0, 7):
        image = Reader(0)(found.spots[i])
        np.testing.assert_array_equal(found.samples[i], image)
        np.testing.assert_array_equal(found.features[i], WeightFree()(image[None])[0])
        np.testing.assert_array_equal(found.powers[i], band_powers(image))
        np.testing.assert_array_equal(found.hues[i], hue_histogram(image))
        np.testing.assert_array_equal(found.signatures[i], signature(image))
        np.testing.assert_array_equal(found.phases[i], phase(image, 1.0).as_row())
        assert found.saturations[i] == pytest.approx(saturation(image))
        for stain in (0, 1):
            one = density_summary(stain_densities(image, stains="h-e")[..., stain])
            np.testing.assert_array_equal(found.densities[i, stain], one.counts)
            assert found.amounts[i, stain] == pytest.approx(one.mean)


def test_phase_is_that_of_the_middle_of_large_patches(two):
    found = seen(two, size=384, count=1)
    image = Reader(0)(found.spots[0])
    np.testing.assert_array_equal(found.phases[0], phase(image[64:320, 64:320], 1.0).as_row())


def test_dab_takes_the_place_of_eosin(two):
    image = Reader(0)(seen(two, count=1).spots[0])
    dab = density_summary(stain_densities(image, stains="h-dab")[..., 2])
    assert seen(two, count=1, stains="h-dab").amounts[0, 1] == pytest.approx(dab.mean)


def test_threads_change_nothing(two):
    one, three = seen(two, count=20), seen(two, count=20, threads=3)
    for name in ("features", "powers", "densities", "hues", "saturations", "phases", "signatures"):
        np.testing.assert_array_equal(getattr(one, name), getattr(three, name))
    assert sorted(one.samples) == sorted(three.samples)


def test_some_are_kept_whole_evenly(two):
    found = seen(two, keep=4)
    assert sorted(found.samples) == [0, 3, 6, 9]
    assert seen(two, keep=0).samples == {}
    assert found.without_samples().samples == {}


def test_taking_and_joining(two):
    found = seen(two)
    some = found.take(np.array([7, 2]))
    assert some.spots == (found.spots[7], found.spots[2])
    np.testing.assert_array_equal(some.features, found.features[[7, 2]])
    np.testing.assert_array_equal(some.samples[0], found.samples[7])
    both = join([found, seen(two, mpp=2.0, count=2)])
    assert both.mpp.tolist() == [1.0] * 10 + [2.0] * 4
    assert len(both.features) == len(both.spots) == 14
    assert both.samples == {}


def test_every_patch_is_counted(two):
    counts: list[int] = []
    seen(two, count=20, progress=counts.append)
    assert counts == [32, 8, 0]


class Torn(Reader):
    """Cannot read some slides."""

    def __init__(self, *names: str) -> None:
        super().__init__(0)
        self.names = names

    def __call__(self, spot):
        if spot.entry.slide in self.names:
            raise SlideError(spot.entry.path, "damaged: torn")
        return super().__call__(spot)


def test_damaged_slides_are_said_and_left_out(two, caplog):
    where = spots(two.entries, {"s0.tif": 3, "s1.tif": 3}, 1.0, 96)
    counts: list[int] = []
    with caplog.at_level(logging.WARNING):
        found = read_patches(where, Torn("s1.tif"), WeightFree(), progress=counts.append)
    assert found.groups == ("s0.tif",) * 3
    assert sum(counts) == 6
    (warning,) = found.warnings
    assert warning.endswith("s1.tif: patches that cannot be read, left out: 3; the first: damaged: torn")
    assert caplog.text.count(warning) == 1
    with pytest.raises(SlideError, match=r"s0\.tif: none of 6 patches can be read \(.*torn"):
        read_patches(where, Torn("s0.tif", "s1.tif"), WeightFree())
