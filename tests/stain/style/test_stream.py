"""Stain transfer by the engine that translates slides: rows in, rows out, whatever the tile."""

import numpy as np
import pytest
import torch

from tests.stain.style.test_network import model
from tests.synthetic import he_image
from wsigen.geometry import Size
from wsigen.stain.engine.background import BackgroundMap
from wsigen.stain.engine.stream import StreamTranslator
from wsigen.stain.style.network import LikeReference, feature_stats


def painted_like(reference, picture):
    net = model(width=4, seed=1)
    stats = [
        feature_stats(net.encoder(torch.from_numpy(p).permute(2, 0, 1)[None] / 127.5 - 1))
        for p in (picture, reference)
    ]
    return LikeReference(net, *stats).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def slide():
    return he_image((360, 456), seed=1)  # multiples of 8, so that nothing is padded


@pytest.fixture(scope="module")
def net(slide):
    return painted_like(he_image(128, seed=2)[..., ::-1].copy(), slide)


def translated(net, image, tile, chunk=100, background=None, start=0):
    size = Size(*image.shape[:2])
    stream = StreamTranslator([net], size, norm=None, tile=tile, background=background, start=start)
    rows = []
    with torch.inference_mode():
        for y in range(stream.first_source_row, size.height, chunk):
            rows += [r for _, r in stream.push(image[y : y + chunk])]
    return np.concatenate(rows)


def whole(net, image):
    x = torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.inference_mode():
        y = ((net(x) + 1) * 127.5).round().clamp(0, 255).byte()
    return y[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("tile", [64, 192, 512])
def test_tiles_do_not_show(net, slide, tile):
    assert np.array_equal(translated(net, slide, tile), whole(net, slide))


def test_it_is_not_the_slide_that_comes_out(net, slide):
    assert np.abs(whole(net, slide).astype(int) - slide).mean() > 5


def test_a_run_that_goes_on_gives_the_same_rows(net, slide):
    rows = translated(net, slide, 64)
    assert np.array_equal(translated(net, slide, 64, start=200, chunk=33), rows[200:])


def test_sides_that_are_no_multiples_of_eight(net):
    image = he_image((203, 131), seed=3)
    padded = np.pad(image, ((0, 5), (0, 5), (0, 0)), mode="edge")
    assert np.array_equal(translated(net, image, 64), whole(net, padded)[:203, :131])


def test_glass_stays_glass(net):
    image = np.full((256, 512, 3), 243, np.uint8)
    image[64:128, 64:128] = he_image(64, seed=4)
    occupied = np.zeros((16, 32), bool)
    occupied[4:8, 4:8] = True
    out = translated(net, image, 64, background=BackgroundMap(occupied, 16))
    assert np.array_equal(out[:, 320:], image[:, 320:])
    assert not np.array_equal(out[64:128, 64:128], image[64:128, 64:128])
