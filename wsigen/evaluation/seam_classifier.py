"""Seams as a small network sees them: can crops over seams be told from crops within tiles?

A classifier is trained to tell the two apart; AUC 0.5 = seams cannot be seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsigen.data.index import SlideEntry
from wsigen.errors import InvalidValueError
from wsigen.evaluation.estimate import Estimate, Labels, jackknife, run_measure
from wsigen.evaluation.features import to_tensor
from wsigen.evaluation.realism import auc
from wsigen.evaluation.results import Result
from wsigen.evaluation.sets import SlideSet
from wsigen.evaluation.spots import readable
from wsigen.evaluation.verdict import Metric
from wsigen.evaluation.windows import (
    SeamGrid,
    as_fine,
    grids_by_name,
    own_grid,
    some_slides,
    windows,
)
from wsigen.nn.images import to_unit
from wsigen.slide.stains import require_rgb

CROP, CROPS, REGIONS = 64, 24, 8
MARGIN = 8  # Distance of inner crops from every seam, px

VISIBILITY = Metric(
    "seams",
    "joint_auc",
    "Seams, AUC of a small network",
    "lower",
    good="0.5, as on real slides: crops over seams cannot be told from crops within tiles",
    source="a convolutional network trained on half of the windows and tested on the others, in turn",
    bounds=(0.0, 1.0),
)


@dataclass(frozen=True)
class Training:
    """Training of a `CropClassifier`: Adam, rate 2e-3 decaying to 0, balanced batches, flips and turns.

    400 updates of 32 crops of 64 px take about a minute on one core.

    Args:
        updates: of the optimiser.
        device: where it trains.
        seed: of weights, order and flips; and of crops.
        batch: crops per update, half of each set.
        width: of the network.
    """

    updates: int = 400
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    seed: int = 0
    batch: int = 32
    width: int = 16

    def fit(self, positive: np.ndarray, negative: np.ndarray) -> CropClassifier:
        """Train a network to tell two sets apart; return it in evaluation mode.

        Args:
            positive: uint8 (n, s, s, 3), square crops.
            negative: uint8 (m, s, s, 3).

        Determinism: same arguments and machine, same network.
        """
        crops = [positive, negative]
        for some in crops:
            require_rgb(some, 4, what="crops")
        if crops[0].shape[1:] != crops[1].shape[1:]:
            raise InvalidValueError(f"crops must be of one size, got {positive.shape} and {negative.shape}")
        # weights follow from the seed alone, and the caller's generator does not move
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            net = CropClassifier(self.width).to(self.device)
        rng, half = np.random.default_rng(self.seed), self.batch // 2
        optimiser = torch.optim.Adam(net.parameters(), 2e-3)
        labels = torch.tensor([1.0] * half + [0.0] * half, device=self.device)
        for update in range(self.updates):
            optimiser.param_groups[0]["lr"] = 2e-3 * (1 - update / self.updates)
            chosen = np.concatenate([c[rng.integers(len(c), size=half)] for c in crops])
            logits = net(to_unit(to_tensor(_turned(chosen, rng), self.device)))
            loss = F.binary_cross_entropy_with_logits(logits, labels)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        return net.eval()


class CropClassifier(nn.Module):
    """Four convolutions, pooled by mean and maximum: for colour and texture, and for a line of few pixels.

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
        """Return logits (b,) of crops (b, 3, h, w) in [-1, 1]: positive for the first set."""
        maps = self.body(x)
        return self.head(torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], dim=1))[:, 0]

    def classify(self, crops: np.ndarray, batch: int = 64) -> np.ndarray:
        """Return logits, float32 (n,), of crops uint8 (n, h, w, 3)."""
        require_rgb(crops, 4, what="crops")
        device = next(self.parameters()).device
        with torch.inference_mode():
            scores = [
                self(to_unit(to_tensor(crops[i : i + batch], device))).cpu()
                for i in range(0, len(crops), batch)
            ]
        return torch.cat(scores).numpy()


def visibility_rows(ours: SlideSet, real: SlideSet, training: Training, *, mark: str = "") -> list[Result]:
    """Measure how visible the seams of every known grid are, and the same lines of real slides.

    Args:
        ours: slides with seams.
        real: slides without.
        training: of the networks.
        mark: before the name of the grid.
    """
    rows = []
    for grid, entries in grids_by_name(some_slides(ours.entries)).items():
        if grid.rows is None:
            continue
        mpp, lines = entries[0].mpp, own_grid(entries[0], grid)
        fine = some_slides(as_fine(real.entries, mpp))
        value, notes = run_measure(lambda g=grid, e=entries: _visibility(e, g, None, training))
        floor, warnings = run_measure(lambda g=lines, e=fine, m=mpp: _visibility(e, g, m, training))
        label = f"{mark}{grid.name}"
        rows.append(Result(VISIBILITY, None, value, floor, "", (*notes, *warnings), label))
    return rows


def seam_visibility(over: np.ndarray, inside: np.ndarray, regions: Labels, training: Training) -> Estimate:
    """Return the AUC of a classifier that was trained to tell crops over seams from crops within tiles.

    Two classifiers, each trained on half of the regions and tested on the other, so that training and test
    share no pixels. The 95 % interval is that of the test regions; 0.5 = invisible.

    Args:
        over: crops over seams, uint8 (n, s, s, 3).
        inside: crops within tiles, uint8 (n, s, s, 3), of the same images.
        regions: slide or region of each crop, the same for both kinds; at least 4 regions.
        training: of the networks.

    Raises:
        InvalidValueError: fewer than 4 regions.
    """
    names, member = np.unique(np.asarray(regions), return_inverse=True)
    if len(names) < 4:
        raise InvalidValueError(
            f"visible seams need crops of at least 4 regions, got {len(names)}; give more or larger slides"
        )
    fold = member % 2
    scores = np.empty((2, len(member)), np.float32)
    for tested in (0, 1):
        held_out = fold == tested
        net = training.fit(over[~held_out], inside[~held_out])
        scores[:, held_out] = [net.classify(crops[held_out]) for crops in (over, inside)]

    def mean_auc(chosen: np.ndarray) -> list[float]:
        among = np.isin(member, chosen)
        # a draw may have no region of one fold, never of both
        return [float(np.nanmean([auc(*scores[:, among & (fold == k)]) for k in (0, 1)]))]

    return jackknife(mean_auc, [len(names)], seed=training.seed, bounds=(0, 1))[0]


def seam_crops(
    image: np.ndarray, grid: SeamGrid, count: int, *, size: int = CROP, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Cut crops over seams, and as many within tiles.

    A crop over a seam has it within a quarter of its middle; seams between rows and between columns take
    turns. A crop within tiles is at least 8 px away from every seam.

    Args:
        image: uint8 (height, width, 3).
        grid: of the seams, in pixels of the image.
        count: number of crops of either kind.
        size: their side in pixels.
        seed: of the places.

    Returns:
        Two of uint8 (count, size, size, 3).

    Raises:
        InvalidValueError: no seam has room for a crop, or no crop fits between the seams.
    """
    extents, phases, pitch = image.shape[:2], (grid.rows or (), grid.cols or ()), grid.pitch
    seams = [_seams(side, pitch, p, size * 3 // 4) for side, p in zip(extents, phases, strict=True)]
    if not all(map(len, seams)):
        raise InvalidValueError(
            f"no seam with pitch {pitch} has room for crops of {size} px in an image of {extents}"
        )
    starts = [_inner_starts(side, pitch, p, size) for side, p in zip(extents, phases, strict=True)]
    if not all(map(len, starts)):
        raise InvalidValueError(
            f"no crop of {size} px fits {MARGIN} px away from seams with pitch {pitch}; take a smaller size"
        )
    # the seam's place in its crop varies, or the network would learn the place
    rng, over = np.random.default_rng(seed), []
    for i in range(count):
        corner = [int(rng.integers(side - size + 1)) for side in extents]
        corner[i % 2] = int(rng.choice(seams[i % 2]) - size // 2 + rng.integers(-(size // 4), size // 4 + 1))
        over.append(corner)
    # from the seed again: crops within tiles do not depend on how many are over seams
    rng = np.random.default_rng(seed)
    inside = [[int(rng.choice(s)) for s in starts] for _ in range(count)]
    found = [np.stack([image[y : y + size, x : x + size] for y, x in kind]) for kind in (over, inside)]
    return found[0], found[1]


def crops_of_slides(
    entries: Sequence[SlideEntry], grid: SeamGrid, mpp: float | None, seed: int
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Cut crops over seams and within tiles, equally many of each window of some slides.

    Args:
        entries: the slides.
        grid: of the seams; the phases are each slide's own where it names them.
        mpp: µm/px to read at, with the phases of ``grid``, on slides that have no seams; None: their own.
        seed: of the places.

    Returns:
        Crops over seams, crops within tiles, and the window that each of either comes from.
    """
    over, within, labels = [], [], []
    for entry in entries:
        at, lines = (entry.mpp, own_grid(entry, grid)) if mpp is None else (mpp, grid)
        read = partial(entry.open().read_region, mpp=at, background=entry.background)
        most = max(2, REGIONS // len(entries))
        regions = windows(entry, at, 2 * grid.pitch, seed=seed, most=most)
        for region, image in readable(read, regions, "windows for seams"):
            rows, cols = (
                tuple((p - start) % grid.pitch for p in phases or ())
                for phases, start in ((lines.rows, region.y), (lines.cols, region.x))
            )
            crops = seam_crops(image, SeamGrid(grid.name, grid.pitch, rows, cols), CROPS, seed=seed)
            over.append(crops[0])
            within.append(crops[1])
            labels += [f"{entry.slide} {region.y} {region.x}"] * CROPS
    empty = np.empty((0, CROP, CROP, 3), np.uint8)
    return np.concatenate([empty, *over]), np.concatenate([empty, *within]), labels


def _visibility(
    entries: Sequence[SlideEntry], grid: SeamGrid, mpp: float | None, training: Training
) -> Estimate:
    over, inside, regions = crops_of_slides(entries, grid, mpp, training.seed)
    return seam_visibility(over, inside, regions, training)


def _seams(extent: int, pitch: int, phases: Sequence[int], room: int) -> np.ndarray:
    """Return the positions of the seams that have room on both sides."""
    every = np.unique([p for phase in phases for p in range(phase % pitch, extent, pitch)])
    return every[(every >= room) & (every <= extent - room)]


def _inner_starts(extent: int, pitch: int, phases: Sequence[int], size: int) -> np.ndarray:
    """Return where a crop may start, on one axis, so that it keeps away from every seam."""
    starts = np.arange(max(0, extent - size + 1))
    for phase in phases:
        # distance from the seam before a crop; the next seam is a pitch after that one
        into = (starts - phase) % pitch
        outside_first = starts + size + MARGIN <= phase % pitch  # before the first seam there is none
        starts = starts[((into >= MARGIN) & (into + size + MARGIN <= pitch)) | outside_first]
    return starts


def _turned(crops: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn each crop to a random one of the 8 orientations."""
    turns, flips = rng.integers(4, size=len(crops)), rng.random(len(crops)) < 0.5
    each = zip(crops, turns, flips, strict=True)
    return np.stack([np.rot90(crop[:, ::-1] if flip else crop, k) for crop, k, flip in each])
