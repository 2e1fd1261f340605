"""Samples hold each measure of each patch; equal ones are at the floor, blurred ones are not."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tests.synthetic import he_image
from wsigen.evaluation.comparison import Comparison
from wsigen.evaluation.quality import NIQE_BLOCK, niqe_blocks, piqe, sobel
from wsigen.evaluation.samples import measure_samples, nuclei_numbers, real_samples, sample_rows
from wsigen.slide.nuclei import COARSEST_MPP, Nuclei, find_nuclei

IMAGES = [he_image(320, seed, mpp=1.0)[64:192, 64:192] for seed in range(5)]


def crops(seeds, blur=0.0):
    found = []
    for seed in seeds:
        image = he_image(640, seed, mpp=1.0)[128:512, 128:512]
        image = cv2.GaussianBlur(image, (0, 0), blur) if blur else image
        found += [image[y : y + 192, x : x + 192] for y in (0, 96, 192) for x in (0, 96, 192)]
    return found


@pytest.fixture(scope="module")
def real():
    groups = [f"r{s}" for s in range(6) for _ in range(9)]
    return real_samples(measure_samples(crops(range(6)), groups, 1.0), 1.0, seed=0)


def rows_of(seen, real):
    return {r.key: r for r in sample_rows(Comparison(seen, real, 1.0))}


def test_other_slides_of_the_kind_are_at_the_floor(real):
    groups = [f"g{s}" for s in range(4) for _ in range(9)]
    found = rows_of(measure_samples(crops(range(20, 24)), groups, 1.0), real)
    assert set(found) == {"niqe", "piqe", "sobel", "nuclei_density", "nuclei_area", "nuclei_sizes"}
    for key, row in found.items():
        assert row.excess is not None, key
        assert row.excess < 2.5, (key, row.excess)
    sobel_row = found["sobel"]
    assert sobel_row.floor.value == pytest.approx(real.every.sobel.mean())
    assert sobel_row.samples == "36 and 54 patches"


def test_blurred_ones_are_not(real):
    groups = [f"g{s}" for s in range(4) for _ in range(9)]
    found = rows_of(measure_samples(crops(range(20, 24), blur=1.5), groups, 1.0), real)
    assert found["sobel"].value.value < 0.9 * found["sobel"].floor.value
    assert found["sobel"].excess > 3
    assert found["niqe"].excess > 2


def test_nuclei_are_counted_against_all_real_samples(real):
    groups = [f"g{s}" for s in range(4) for _ in range(9)]
    row = rows_of(measure_samples(crops(range(20, 24)), groups, 1.0), real)["nuclei_density"]
    every = real.every.nuclei
    assert row.floor.value == pytest.approx(sum(n.count for n in every) / sum(n.extent for n in every))


def test_few_nuclei_are_said(real):
    blank = [np.full((190, 190, 3), 240, np.uint8) for _ in range(8)]
    row = rows_of(measure_samples(blank, [*"uvwx"] * 2, 1.0), real)["nuclei_density"]
    assert row.value.value == 0
    assert "0 whole nuclei were found in 8 patches: their sizes say little" in row.warnings


def test_coarse_samples_have_no_nuclei_and_few_no_niqe(real):
    coarse = real_samples(measure_samples(crops([0])[:4], [*"abcd"], 4.0), 4.0, seed=0)
    found = rows_of(measure_samples(crops([9])[:4], [*"wxyz"], 4.0), coarse)
    assert set(found) == {"niqe", "piqe", "sobel"}
    assert found["niqe"].value is None
    assert "NIQE needs more than 36 sharp blocks" in found["niqe"].warnings[0]


@pytest.mark.parametrize("threads", [1, 3])
def test_each_patch_in_its_place(threads):
    seen = measure_samples(IMAGES, [*"aabbc"], 1.0, threads=threads)
    assert seen.groups == (*"aabbc",)
    np.testing.assert_array_equal(seen.piqe, [piqe(i) for i in IMAGES])
    np.testing.assert_array_equal(seen.sobel, [sobel(i) for i in IMAGES])
    for blocks, nuclei, image in zip(seen.blocks, seen.nuclei, IMAGES, strict=True):
        np.testing.assert_array_equal(blocks[0], niqe_blocks(image)[0])
        assert nuclei.count == find_nuclei(image, 1.0).count


def test_coarse_patches_have_no_nuclei_and_small_ones_no_blocks():
    small = [image[: NIQE_BLOCK - 1, : NIQE_BLOCK - 1] for image in IMAGES]
    assert measure_samples(IMAGES, [*"aabbc"], COARSEST_MPP * 1.01).nuclei == ()
    seen = measure_samples(small, [*"aabbc"], COARSEST_MPP)
    assert seen.blocks == ()
    assert len(seen.nuclei) == 5


def test_nuclei_of_ihc_are_unmixed_from_dab():
    """Brown alone is no nucleus where DAB is known; taken for haematoxylin and eosin, it is one."""
    brown = np.full((128, 128, 3), 245, np.uint8)
    yy, xx = np.mgrid[:128, :128]
    for y in range(16, 128, 32):
        for x in range(16, 128, 32):
            brown[np.hypot(yy - y, xx - x) < 5] = (139, 94, 60)
    as_ihc, as_he = (measure_samples([brown], ["a"], 0.5, stains=s).nuclei[0].count for s in ("h-dab", "h-e"))
    assert as_ihc == 0
    assert as_he == 16


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
