"""Quality and nuclei against floors: equal samples are at the floor, blurred ones are not."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tests.synthetic import he_image
from wsigen.evaluation.nuclei import nuclei_rows
from wsigen.evaluation.quality import niqe_blocks, piqe, quality_rows, sobel
from wsigen.evaluation.samples import RealSamples, Samples
from wsigen.slide.nuclei import find_nuclei


def close(images, groups, mpp=1.0):
    return Samples(
        tuple(groups),
        np.array([piqe(i) for i in images]),
        np.array([sobel(i) for i in images]),
        tuple(niqe_blocks(i) for i in images),
        tuple(find_nuclei(i, mpp) for i in images) if mpp <= 1 else (),
    )


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
    return RealSamples(close(crops(range(6)), groups), 1.0, seed=0)


def rows_of(seen, real):
    return {r.key: r for r in (*quality_rows(seen, real), *nuclei_rows(seen, real))}


def test_other_slides_of_the_kind_are_at_the_floor(real):
    groups = [f"g{s}" for s in range(4) for _ in range(9)]
    found = rows_of(close(crops(range(20, 24)), groups), real)
    assert set(found) == {"niqe", "piqe", "sobel", "nuclei_density", "nuclei_area", "nuclei_sizes"}
    for key, row in found.items():
        assert row.excess is not None, key
        assert row.excess < 2.5, (key, row.excess)
    sobel_row = found["sobel"]
    assert sobel_row.floor.value == pytest.approx(real.seen.sobel.mean())
    assert sobel_row.samples == "36 and 54 patches"


def test_blurred_ones_are_not(real):
    groups = [f"g{s}" for s in range(4) for _ in range(9)]
    found = rows_of(close(crops(range(20, 24), blur=1.5), groups), real)
    assert found["sobel"].value.value < 0.9 * found["sobel"].floor.value
    assert found["sobel"].excess > 3
    assert found["niqe"].excess > 2


def test_nuclei_are_counted_against_all_real_samples(real):
    groups = [f"g{s}" for s in range(4) for _ in range(9)]
    row = rows_of(close(crops(range(20, 24)), groups), real)["nuclei_density"]
    every = real.seen.nuclei
    assert row.floor.value == pytest.approx(sum(n.count for n in every) / sum(n.extent for n in every))


def test_few_nuclei_are_said(real):
    blank = [np.full((190, 190, 3), 240, np.uint8) for _ in range(8)]
    row = rows_of(close(blank, [*"uvwx"] * 2), real)["nuclei_density"]
    assert row.value.value == 0
    assert "0 whole nuclei were found in 8 patches: their sizes say little" in row.warnings


def test_coarse_samples_have_no_nuclei_and_few_no_niqe(real):
    coarse = RealSamples(close(crops([0])[:4], [*"abcd"], mpp=4.0), 4.0, seed=0)
    found = rows_of(close(crops([9])[:4], [*"wxyz"], mpp=4.0), coarse)
    assert set(found) == {"niqe", "piqe", "sobel"}
    assert found["niqe"].value is None
    assert "NIQE needs more than 36 sharp blocks" in found["niqe"].warnings[0]
