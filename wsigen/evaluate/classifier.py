"""A small convolutional network that learns in minutes to tell two sets of crops apart."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsigen.errors import InvalidValueError
from wsigen.nn.images import to_unit


class CropClassifier(nn.Module):
    """Four convolutions, pooled by mean and maximum: colour and texture, and a line that a few pixels show.

    Args:
        width: channels of the first convolution; 16 gives 70,000 weights.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        channels = (3, width, 2 * width, 4 * width, 4 * width)
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(pairwise(channels)):
            layers += [nn.Conv2d(before, after, 3, stride=1 if i == 0 else 2, padding=1)]
            layers += [nn.GroupNorm(4, after), nn.SiLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(2 * channels[-1], 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (b,) of crops (b, 3, h, w) in [-1, 1]: positive for the first set."""
        maps = self.body(x)
        return self.head(torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], dim=1))[:, 0]


def train_classifier(
    positive: np.ndarray,
    negative: np.ndarray,
    *,
    updates: int = 400,
    batch: int = 32,
    width: int = 16,
    device: str | torch.device = "cpu",
    seed: int = 0,
) -> CropClassifier:
    """Train a `CropClassifier`: Adam, rate 2e-3 decaying to 0, balanced batches, flips and quarter turns.

    400 updates of 32 crops of 64 px take about a minute on one core.

    Args:
        positive: uint8 (n, s, s, 3), square crops.
        negative: uint8 (m, s, s, 3).
        updates: of the optimiser.
        batch: crops per update, half of each set.
        width: of the network.
        device: where it trains.
        seed: of weights, order and flips.

    Returns:
        The network in evaluation mode.

    Determinism: same arguments and machine, same network.
    """
    crops = [_checked(crops) for crops in (positive, negative)]
    if crops[0].shape[1:] != crops[1].shape[1:]:
        raise InvalidValueError(f"crops must be of one size, got {positive.shape} and {negative.shape}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = CropClassifier(width).to(device)
    rng = np.random.default_rng(seed)
    optimiser = torch.optim.Adam(net.parameters(), 2e-3)
    labels = torch.tensor([1.0] * (batch // 2) + [0.0] * (batch // 2), device=device)
    for update in range(updates):
        optimiser.param_groups[0]["lr"] = 2e-3 * (1 - update / updates)
        drawn = np.concatenate([c[rng.integers(len(c), size=batch // 2)] for c in crops])
        loss = F.binary_cross_entropy_with_logits(net(_to_tensor(_moved(drawn, rng), device)), labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    return net.eval()


def classify(net: CropClassifier, crops: np.ndarray, batch: int = 64) -> np.ndarray:
    """Logits of crops, float32 (n,): above 0, more like the first set than the second.

    Args:
        net: trained.
        crops: uint8 (n, h, w, 3).
        batch: how many at once.
    """
    device = next(net.parameters()).device
    parts = _checked(crops)
    with torch.inference_mode():
        scores = [net(_to_tensor(parts[i : i + batch], device)).cpu() for i in range(0, len(parts), batch)]
    return torch.cat(scores).numpy()


def _checked(crops: np.ndarray) -> np.ndarray:
    if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[-1] != 3 or not len(crops):
        raise InvalidValueError(f"crops must be uint8 (n ≥ 1, h, w, 3), got {crops.dtype} {crops.shape}")
    return crops


def _moved(crops: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each crop in a random one of the 8 orientations (of 4, if it is not square)."""
    out = np.empty_like(crops)
    turns, flips = rng.integers(4, size=len(crops)), rng.random(len(crops)) < 0.5
    for i, (crop, k, flip) in enumerate(zip(crops, turns, flips, strict=True)):
        quarters = k if crop.shape[0] == crop.shape[1] else 2 * (k % 2)
        out[i] = np.rot90(crop[:, ::-1] if flip else crop, quarters)
    return out


def _to_tensor(crops: np.ndarray, device: str | torch.device) -> Tensor:
    return to_unit(torch.from_numpy(np.ascontiguousarray(crops.transpose(0, 3, 1, 2))).to(device))
