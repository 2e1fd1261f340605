"""Samples hold each measure of each patch, in their order."""

from __future__ import annotations

import numpy as np
import pytest

from tests.synthetic import he_image
from wsigen.evaluation.quality import NIQE_BLOCK, niqe_blocks, piqe, sobel
from wsigen.evaluation.samples import measure_samples
from wsigen.slide.nuclei import COARSEST_MPP, find_nuclei

IMAGES = [he_image(320, seed, mpp=1.0)[64:192, 64:192] for seed in range(5)]


@pytest.mark.parametrize("threads", [1, 3])
def test_each_patch_in_its_place(threads):
    seen = measure_samples(IMAGES, [*"aabbc"], 1.0, threads=threads)
    assert seen.groups == (*"aabbc",)
    assert len(seen) == 5
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
