from __future__ import annotations

import cv2
import numpy as np
import pytest

from tests.synthetic import he_image
from wsigen.geometry import Size
from wsigen.slide.codec import ZSTD
from wsigen.slide.journal import BlockJournal
from wsigen.slide.pyramid import halve
from wsigen.slide.thumbnail import thumbnail


def journal_of(folder, image, levels):
    size = Size(*image.shape[:2])
    options = {"codec": ZSTD, "levels": levels, "fingerprint": "test", "tile": 32, "block": 128}
    journal = BlockJournal(folder, size, **options)
    journal.append(image)
    return journal


def expected(image, longest):
    while max(image.shape[:2]) >= 2 * longest - 1:
        image = halve(image)
    scale = longest / max(image.shape[:2])
    if scale < 1:
        target = (round(image.shape[1] * scale), round(image.shape[0] * scale))
        image = cv2.resize(image, target, interpolation=cv2.INTER_AREA)
    return image


@pytest.mark.parametrize("levels", [1, 3, 6])
@pytest.mark.parametrize("longest", [20, 64, 100, 300, 1000])
def test_thumbnail_is_the_reduced_slide_whatever_is_stored(tmp_path, levels, longest):
    image = he_image((270, 401), seed=1)
    picture = thumbnail(journal_of(tmp_path, image, levels), longest)
    assert max(picture.shape[:2]) == min(longest, 401)
    np.testing.assert_array_equal(picture, expected(image, longest))


def test_thin_slides_keep_at_least_one_pixel(tmp_path):
    image = he_image((1, 400), seed=1)
    assert thumbnail(journal_of(tmp_path, image, 1), 20).shape == (1, 20, 3)
