from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from tests.synthetic import he_image
from wsigen.slide.codec import DEFLATE, JPEG, ZSTD, JpegCodec


@settings(deadline=None, max_examples=40)
@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=40).map(lambda shape: (*shape, 3))))
def test_zstd_gives_back_any_tile(tile):
    np.testing.assert_array_equal(ZSTD.decode(ZSTD.encode(tile)), tile)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40).flatmap(lambda n: arrays(np.uint8, (n, n, 3))))
def test_deflate_gives_back_any_square_tile(tile):
    np.testing.assert_array_equal(DEFLATE.decode(DEFLATE.encode(tile)), tile)


@pytest.mark.parametrize("codec", [JPEG, DEFLATE, ZSTD], ids=lambda codec: codec.name)
def test_views_of_a_larger_image_encode_like_copies(codec):
    view = he_image(512, seed=1)[100:356, 37:293]
    assert codec.encode(view) == codec.encode(view.copy())


def test_jpeg_keeps_the_picture_and_its_colours():
    tile = he_image(256, seed=2)
    shown = JPEG.decode(JPEG.encode(tile)).astype(float)
    error = shown - tile
    assert 10 * np.log10(255**2 / np.mean(error**2)) > 26
    assert np.abs(error.mean(axis=(0, 1))).max() < 1.5


def test_jpeg_decodes_as_other_programs_decode_it():
    data = JPEG.encode(he_image(256, seed=3))
    picture = Image.open(io.BytesIO(data))
    assert picture.mode == "RGB"
    assert picture.layer[0][1:3] == (2, 2)  # luma sampled 2x2 finer than chroma: 4:2:0
    np.testing.assert_allclose(JPEG.decode(data).astype(int), np.asarray(picture).astype(int), atol=4)


def test_jpeg_name_tells_the_quality():
    tile = he_image(256, seed=4)
    assert JpegCodec(quality=60).name != JPEG.name
    assert len(JpegCodec(quality=60).encode(tile)) < len(JPEG.encode(tile))


def test_codecs_rank_by_size_as_documented():
    tile = he_image(256, seed=5)
    sizes = [len(codec.encode(tile)) for codec in (JPEG, ZSTD, DEFLATE)]
    assert sizes == sorted(sizes)
    assert sizes[-1] < tile.nbytes
    assert JPEG.bytes_per_pixel < ZSTD.bytes_per_pixel < DEFLATE.bytes_per_pixel < 3


def test_only_jpeg_loses():
    assert [codec.lossless for codec in (JPEG, DEFLATE, ZSTD)] == [False, True, True]
