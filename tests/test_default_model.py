"""The bundled model: it loads, fits its card, and makes a slide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
import torch

from wsigen.cli import main
from wsigen.nn.denoiser import load_denoiser
from wsigen.nn.snapshot import WEIGHTS, resolve
from wsigen.training.validate import samples


def test_it_is_small_enough_to_ship_and_covers_the_default_slide():
    folder = resolve("default")
    assert (folder / "denoiser" / WEIGHTS).stat().st_size <= 32e6
    net = load_denoiser("default")
    assert 128 in net.config["patch_sizes"]
    low, high = net.config["mpp_range"]
    assert low <= 0.5
    assert high >= 64
    assert "not for diagnosis" in (folder / "README.md").read_text(encoding="utf-8")


def test_it_denoises_better_than_knowing_nothing():
    # tissue-like colours at a middle noise level: the error must fall well below that of the noisy image
    net = load_denoiser("default")
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 1, 8, 8, generator=generator)
    clean = torch.nn.functional.interpolate(coarse, scale_factor=16, mode="bicubic").clamp(0, 1)
    clean = 1 - clean * torch.tensor([0.4, 1.0, 0.5])[:, None, None]
    sigma = torch.full((2,), 0.3)
    noisy = clean + 0.3 * torch.randn(clean.shape, generator=generator)
    error = (net(noisy, sigma, torch.full((2,), 1.0)) - clean).square().mean()
    assert error < 0.2 * 0.3**2


def test_it_makes_pictures_in_the_colours_of_tissue():
    images = samples(load_denoiser("default"), mpp=8.0, size=128, count=2, seed=0, steps=8).astype(float)
    red, green, blue = images.mean(axis=(0, 1, 2))
    assert red > green
    assert blue > green
    assert images.std(axis=(1, 2)).min() > 5


def test_the_first_command_in_small(tmp_path):
    main.sample(["--size=256", "--stages=1", f"--out={tmp_path / 'slides'}"])
    slide_path = Path(tmp_path / "slides" / "synthetic-0_HE.ome.tif")
    with openslide.OpenSlide(slide_path) as slide:
        assert slide.dimensions == (256, 256)
        pixels = np.asarray(slide.read_region((0, 0), 0, (256, 256)))[..., :3]
    assert pixels.std() > 5
