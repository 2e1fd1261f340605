"""The same image in other colours, for losses that must not see colour.

A linear map of RGB about mid-grey. With u the grey axis, P = u u^T, K the matrix of v → u × v:

    x' = contrast · (P + saturation · (cos θ (I − P) + sin θ K)) x + brightness,  clamped to [-1, 1]

so θ turns the hue, and greys stay grey. Nothing moves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wsigen.errors import InvalidValueError

_STREAM = 0x434F4C  # keeps these draws apart from others of the same seed and image number


def colour_map(contrast: float, saturation: float, hue: float) -> np.ndarray:
    """The 3 × 3 matrix above.

    Args:
        contrast: 1 for no change.
        saturation: 1 for no change, 0 for greys.
        hue: angle θ in radians, 0 for no change.
    """
    grey = np.full((3, 3), 1 / 3)
    turn = np.array([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    return contrast * (grey + saturation * (math.cos(hue) * (np.eye(3) - grey) + math.sin(hue) * turn))


def photometric(
    images: Float[Tensor, "b 3 h w"], *, seed: int, image_numbers: Sequence[int], strength: float = 0.4
) -> Float[Tensor, "b 3 h w"]:
    """Each image in other colours of its own.

    Args:
        images: in [-1, 1].
        seed: the run's seed, ≥ 0.
        image_numbers: running number of each image, ≥ 0.
        strength: contrast and saturation are in 1 ± strength, brightness in ± strength / 2, the hue is turned
            by ± strength · π; in [0, 1).

    Raises:
        InvalidValueError: ``strength`` is out of its range.

    Determinism:
        The colours of an image depend on (seed, image number, strength) alone.
    """
    if not 0 <= strength < 1:
        raise InvalidValueError(f"strength must be in [0, 1), got {strength}")
    maps, shifts = [], []
    for number in image_numbers:
        rng = np.random.Generator(np.random.Philox(key=[seed, number], counter=[0, 0, 0, _STREAM]))
        contrast, saturation, brightness, hue = rng.uniform(-strength, strength, 4)
        maps.append(colour_map(1 + contrast, 1 + saturation, math.pi * hue))
        shifts.append(brightness / 2)
    matrix = torch.from_numpy(np.stack(maps)).to(images.device, torch.float32)
    shift = torch.tensor(shifts, dtype=torch.float32, device=images.device)[:, None, None, None]
    with torch.autocast(images.device.type, enabled=False):
        turned = torch.einsum("bij,bjhw->bihw", matrix, images.float())
        return (turned + shift).clamp(-1, 1)
