"""One image in two sets: differences that were planted are found, wherever they are."""

from __future__ import annotations

import numpy as np
import pytest

from tests.evaluation.slides import written
from tests.synthetic import he_image
from wsigen.errors import SlideError
from wsigen.evaluation import tilings
from wsigen.evaluation.tilings import common_slides, compare_slides, tiling_rows

HEIGHT, WIDTH = 320, 256


@pytest.fixture(scope="module")
def image():
    return he_image((HEIGHT, WIDTH), 5, mpp=1.0)


def write(folder, images, mpp=1.0):
    return written(folder, images, mpp, levels=1)


def changed(image, y, x, by):
    out = image.copy()
    out[y, x, 1] = out[y, x, 1] - by if out[y, x, 1] >= by else out[y, x, 1] + by
    return out


def test_the_same_slides_do_not_differ(image, tmp_path):
    sets = [write(tmp_path / name, {"a": image}) for name in ("one", "two")]
    rows = {r.key: r for r in tiling_rows(*sets)}
    assert [r.value.value for r in rows.values()] == [0, 0, 0]
    assert rows["tiling_largest"].label == "against two"
    assert rows["tiling_share"].samples == "every pixel of 1 of 1 slides that both have"


def test_one_pixel_in_any_band_is_found(image, tmp_path, monkeypatch):
    """Bands of 128 rows, the last of them lower: shares count by rows."""
    monkeypatch.setattr(tilings, "BAND", 128)
    one = write(tmp_path / "one", {"a": image}).entries[0]
    other = write(tmp_path / "two", {"a": changed(changed(image, 300, 7, 40), 20, 9, 30)}).entries[0]
    found = compare_slides(one, other)
    assert (found.largest, found.at) == (40, (300, 7))
    assert found.share == pytest.approx(2 / (HEIGHT * WIDTH))
    assert found.mean == pytest.approx(70 / (HEIGHT * WIDTH * 3))


def test_the_largest_of_several_slides_and_their_mean(image, tmp_path):
    one = write(tmp_path / "one", {"a": image, "b": image, "only": image})
    two = write(tmp_path / "two", {"a": changed(image, 5, 5, 12), "b": image, "other": image})
    assert [ours.slide for ours, _ in common_slides(one, two)] == ["a.tif", "b.tif"]
    largest, mean, share = tiling_rows(one, two)
    assert (largest.value.value, largest.value.low, largest.value.high) == (12, 12, 12)
    assert share.value.value == pytest.approx(50 / (HEIGHT * WIDTH))
    assert mean.value.value == pytest.approx(6 / (HEIGHT * WIDTH * 3))
    assert mean.value.high > mean.value.value


def test_slides_of_other_sizes_or_scales_are_not_one_image(image, tmp_path):
    one = write(tmp_path / "one", {"a": image, "b": image})
    two = write(tmp_path / "two", {"a": image[:-16]})
    three = write(tmp_path / "three", {"b": image}, mpp=0.5)
    assert tiling_rows(one, two) == []
    assert tiling_rows(one, three) == []


def test_a_damaged_slide_is_left_out_and_named(image, tmp_path, monkeypatch):
    one, two = (write(tmp_path / n, {"a": image, "b": np.ascontiguousarray(image[::-1])}) for n in "xy")

    def compare(ours, theirs):
        if ours.slide == "a.tif":
            raise SlideError(theirs.path, "is damaged")
        return compare_slides(ours, theirs)

    monkeypatch.setattr(tilings, "compare_slides", compare)
    rows = tiling_rows(one, two)
    assert rows[0].value.value == 0
    assert rows[0].samples == "every pixel of 1 of 2 slides that both have"
    assert "a.tif: is damaged" in rows[0].warnings[0]
