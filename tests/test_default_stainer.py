"""The bundled stainer: it loads, fits its card, and makes of H&E something that looks like IHC."""

from __future__ import annotations

import numpy as np
import torch

from tests.synthetic import he_image
from wsigen.nn.snapshot import WEIGHTS
from wsigen.slide.stains import haematoxylin_correlation
from wsigen.stain.stainer import bundled_markers, load_stainer, resolve_stainer


def translated(image: np.ndarray) -> np.ndarray:
    x = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1
    y = load_stainer("SYN")(x)[0].permute(1, 2, 0)
    return ((y + 1) * 127.5).round().clamp(0, 255).byte().numpy()


def test_it_is_small_enough_to_ship_and_covers_the_default_slide():
    assert "SYN" in bundled_markers()
    folder = resolve_stainer("syn")
    assert (folder / WEIGHTS).stat().st_size <= 16e6
    config = load_stainer("SYN").config
    assert config["marker"] == "SYN"
    low, high = config["mpp_range"]
    assert low <= 0.5 <= high
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "not for diagnosis" in card
    assert "MIT" in card


def test_it_bleaches_what_is_pink_and_leaves_nuclei_where_they_were():
    image = he_image(256, seed=3)
    made = translated(image)
    pink, bleached = (im[..., 0].astype(float).mean() - im[..., 1].mean() for im in (image, made))
    assert bleached < pink / 2, "stroma is no longer pink"
    assert haematoxylin_correlation(image, made) > 0.3
