"""8-bit pixels survive the way to a network and back, and mix with their source as said."""

from __future__ import annotations

import numpy as np
import torch

from wsigen.stain.engine.render import Compute, to_network, to_pixels
from wsigen.stain.engine.statistics import tissue_like


def every_level() -> torch.Tensor:
    return torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).repeat(1, 1, 1, 3)


def test_every_level_comes_back():
    pixels = every_level()
    x = to_network(pixels, torch.float32)
    assert x.shape == (1, 3, 16, 16)
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert (x.min(), x.max()) == (-1, 1)
    torch.testing.assert_close(x[0, 0].flatten(), torch.arange(256) / 127.5 - 1)
    assert torch.equal(to_pixels(x[0]), pixels[0])


def test_values_are_rounded_and_clamped():
    values = torch.tensor([-2.0, -1.0, 0.0, 1.0, 1.5, 2.4 / 127.5 - 1, 2.6 / 127.5 - 1])
    pixels = to_pixels(values.expand(3, 1, -1))
    assert pixels[0, :, 1].tolist() == [0, 0, 128, 255, 255, 2, 3]


def test_opacity_mixes_with_the_source():
    source = torch.full((1, 5, 3), 243, dtype=torch.uint8)
    values = torch.full((3, 1, 5), 100 / 127.5 - 1)
    opacity = torch.tensor([[0.0, 0.25, 0.5, 0.75, 1.0]])
    mixed = to_pixels(values, source, opacity)[0, :, 0].tolist()
    assert mixed == [243, round(0.75 * 243 + 25), 172, round(0.25 * 243 + 75), 100]
    assert source.unique().tolist() == [243]  # left alone


def test_the_reference_is_always_the_same_and_looks_like_tissue():
    picture = tissue_like()
    np.testing.assert_array_equal(picture, tissue_like())
    red, green, blue = picture.reshape(-1, 3).mean(0)
    assert green < red < blue < 243
    assert picture.std((0, 1)).min() > 10
    np.testing.assert_array_equal(tissue_like(64), picture[:64, :64])


def test_a_cpu_takes_regions_one_by_one_and_a_gpu_as_many_as_keep_it_busy():
    assert Compute().batch(64 * 64) == 1
    gpu = Compute(torch.device("cuda"), load=1 << 20)
    assert (gpu.batch(512 * 512), gpu.batch(1024 * 1024), gpu.batch(4096 * 4096)) == (4, 1, 1)
