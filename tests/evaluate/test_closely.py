"""What is looked at closely is what each measure says of each patch, in their order."""

from __future__ import annotations

import numpy as np
import pytest

from tests.evaluate.slides import patches
from tests.synthetic import he_image
from wsigen.evaluate.closely import look_at, look_closely
from wsigen.evaluate.quality import NIQE_BLOCK, niqe_blocks, piqe, sobel
from wsigen.slide.nuclei import COARSEST_MPP, find_nuclei

IMAGES = [he_image(320, seed, mpp=1.0)[64:192, 64:192] for seed in range(5)]


@pytest.mark.parametrize("threads", [1, 3])
def test_each_patch_in_its_place(threads):
    done = []
    seen = look_at(IMAGES, [*"aabbc"], 1.0, threads=threads, progress=done.append)
    assert seen.groups == (*"aabbc",)
    assert (len(seen), sum(done)) == (5, 5)
    np.testing.assert_array_equal(seen.piqe, [piqe(i) for i in IMAGES])
    np.testing.assert_array_equal(seen.sobel, [sobel(i) for i in IMAGES])
    for blocks, nuclei, image in zip(seen.blocks, seen.nuclei, IMAGES, strict=True):
        np.testing.assert_array_equal(blocks[0], niqe_blocks(image)[0])
        assert nuclei.count == find_nuclei(image, 1.0).count


def test_coarse_patches_have_no_nuclei_and_small_ones_no_blocks():
    small = [image[: NIQE_BLOCK - 1, : NIQE_BLOCK - 1] for image in IMAGES]
    assert look_at(IMAGES, [*"aabbc"], COARSEST_MPP * 1.01).nuclei == ()
    seen = look_at(small, [*"aabbc"], COARSEST_MPP)
    assert seen.blocks == ()
    assert len(seen.nuclei) == 5


def test_only_patches_that_are_kept_whole_are_looked_at():
    every = patches(np.zeros((8, 3)), [*"aabbccdd"])
    every.samples.update({6: IMAGES[1], 1: IMAGES[0]})
    seen = look_closely(every, 1.0)
    assert seen.groups == ("a", "d")
    np.testing.assert_array_equal(seen.sobel, [sobel(IMAGES[0]), sobel(IMAGES[1])])


def test_nuclei_of_ihc_are_unmixed_from_dab():
    """Brown alone is no nucleus where DAB is known; taken for haematoxylin and eosin, it is one."""
    brown = np.full((128, 128, 3), 245, np.uint8)
    yy, xx = np.mgrid[:128, :128]
    for y in range(16, 128, 32):
        for x in range(16, 128, 32):
            brown[np.hypot(yy - y, xx - x) < 5] = (139, 94, 60)
    as_ihc, as_he = (look_at([brown], ["a"], 0.5, stains=s).nuclei[0].count for s in ("h-dab", "h-e"))
    assert as_ihc == 0
    assert as_he == 16
