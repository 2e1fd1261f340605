"""A picture that is like tissue, for the statistics of places that have none of their own.

A node on glass or on a flat colour, far from any tissue, has no statistics that mean anything: the σ of its
features is next to 0. Interpolated, that saturates everything up to the next node. What a network measures on
this picture is of the usual size instead, and a function of the network alone.
"""

from __future__ import annotations

import numpy as np

SIDE = 256

# Optical densities of haematoxylin and eosin in red, green and blue (Ruifrok and Johnston 2001).
_DENSITIES = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
_WAVES, _SHORTEST, _LONGEST = 16, 5.0, 160.0
_MEAN, _SWING, _WHITE = 0.4, 0.12, 243


def tissue_like(side: int = SIDE) -> np.ndarray:
    """Two stains whose densities are sums of waves of 5 to 160 px: uint8 (side, side, 3).

    Args:
        side: in pixels.

    Determinism: always the same picture.
    """
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side]
    densities = np.full((side, side, len(_DENSITIES)), _MEAN)
    for stain in range(len(_DENSITIES)):
        for length in np.geomspace(_SHORTEST, _LONGEST, _WAVES):
            angle, phase = rng.uniform(0, 2 * np.pi, 2)
            densities[:, :, stain] += _SWING * np.sin(
                2 * np.pi / length * (x * np.cos(angle) + y * np.sin(angle)) + phase
            )
    return np.rint(_WHITE * np.exp(-densities.clip(0) @ _DENSITIES)).astype(np.uint8)
