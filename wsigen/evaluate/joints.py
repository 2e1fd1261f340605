"""What a classifier says of crops that straddle the joints of tiles, beside crops from within tiles.

- `domain_differentiation`, as KIN and DN report it: a classifier trained on real source (H&E) and real target
(IHC) patches
  judges generated crops; where tiles meet badly, fewer pass for the target.
- `joint_visibility`: a classifier trained to tell straddling from inner crops; AUC 0.5 = joints cannot be
seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from wsigen.errors import InvalidValueError
from wsigen.evaluate.classifier import CropClassifier, classify, train_classifier
from wsigen.evaluate.estimate import Estimate, caution, jackknife
from wsigen.evaluate.fidelity import Labels
from wsigen.evaluate.realism import auc

MARGIN = 8
"""Inner crops stay so many pixels away from every joint."""


@dataclass(frozen=True)
class DomainDifferentiation:
    """Which share of generated crops a classifier takes for the target domain.

    Args:
        straddling: of crops over joints.
        inside: of crops within tiles.
        difference: straddling - inside; below 0 = joints are seen.
        accuracy: of the classifier on real crops that it was not trained on.
    """

    straddling: Estimate
    inside: Estimate
    difference: Estimate
    accuracy: float


def straddling_crops(
    image: np.ndarray,
    pitch: int,
    count: int,
    *,
    size: int = 64,
    rows: Sequence[int] = (0,),
    cols: Sequence[int] = (0,),
    seed: int = 0,
) -> np.ndarray:
    """Crops with a joint within a quarter of their middle; half of them over joints of either direction.

    Args:
        image: uint8 (height, width, 3).
        pitch: distance of joints in pixels.
        count: how many crops.
        size: their side in pixels.
        rows: phases of the joints between rows.
        cols: phases of the joints between columns.
        seed: of the places.

    Returns:
        uint8 (count, size, size, 3).

    Raises:
        InvalidValueError: no joint has room for a crop.
    """
    rng = np.random.default_rng(seed)
    crops = []
    for i in range(count):
        axis = i % 2
        joints = _joints(image.shape[axis], pitch, (rows, cols)[axis], size * 3 // 4)
        if not len(joints):
            raise InvalidValueError(
                f"no joint with pitch {pitch} has room for crops of {size} px, "
                f"in an image of {image.shape[:2]}"
            )
        corner = [int(rng.integers(side - size + 1)) for side in image.shape[:2]]
        corner[axis] = int(rng.choice(joints) - size // 2 + rng.integers(-(size // 4), size // 4 + 1))
        crops.append(_crop(image, corner, size))
    return np.stack(crops)


def inner_crops(
    image: np.ndarray,
    pitch: int,
    count: int,
    *,
    size: int = 64,
    rows: Sequence[int] = (0,),
    cols: Sequence[int] = (0,),
    seed: int = 0,
) -> np.ndarray:
    """Crops at least 8 px away from every joint. Arguments as for `straddling_crops`.

    Raises:
        InvalidValueError: no such crop fits between the joints.
    """
    rng = np.random.default_rng(seed)
    starts = [
        _inner_starts(side, pitch, phases, size)
        for side, phases in zip(image.shape[:2], (rows, cols), strict=True)
    ]
    if not all(map(len, starts)):
        raise InvalidValueError(
            f"no crop of {size} px fits {MARGIN} px away from joints with pitch {pitch}; take a smaller size"
        )
    corners = [[int(rng.choice(s)) for s in starts] for _ in range(count)]
    return np.stack([_crop(image, corner, size) for corner in corners])


def domain_differentiation(
    source: np.ndarray,
    target: np.ndarray,
    straddling: np.ndarray,
    inside: np.ndarray,
    *,
    updates: int = 400,
    width: int = 16,
    draws: int = 40,
    device: str | torch.device = "cpu",
    seed: int = 0,
) -> DomainDifferentiation:
    """Train a classifier of domains on real crops; let it judge generated ones over joints and within tiles.

    Args:
        source: real crops of the source domain (H&E), uint8 (n, s, s, 3); the last fifth tests the
            classifier, so order them by slide.
        target: real crops of the target domain (IHC), the same.
        straddling: generated crops over joints, uint8 (k, s, s, 3).
        inside: generated crops within tiles.
        updates: of the classifier's training.
        width: of its network.
        draws: halves drawn for the intervals.
        device: where it trains.
        seed: of training and draws.

    Warns:
        MeasureWarning: the classifier errs on more than a tenth of real crops, so that its verdict means
            little.
    """
    kept = [max(1, len(real) * 4 // 5) for real in (source, target)]
    net = train_classifier(
        target[: kept[1]], source[: kept[0]], updates=updates, width=width, device=device, seed=seed
    )
    right = np.concatenate([classify(net, target[kept[1] :]) > 0, classify(net, source[kept[0] :]) <= 0])
    if right.mean() < 0.9:
        caution(
            f"the classifier of domains is right on only {right.mean():.0%} of real crops; "
            "train it for longer or on more"
        )
    return _verdict(net, straddling, inside, float(right.mean()), draws, seed)


def joint_visibility(
    straddling: np.ndarray,
    inside: np.ndarray,
    *,
    straddling_regions: Labels,
    inside_regions: Labels,
    updates: int = 400,
    width: int = 16,
    draws: int = 40,
    device: str | torch.device = "cpu",
    seed: int = 0,
) -> Estimate:
    """AUC of a classifier that was trained to tell crops over joints from crops within tiles; 0.5 =
    invisible.

    Two classifiers, each trained on half of the regions and tested on the other. The interval is that of the
    test regions.

    Args:
        straddling: uint8 (n, s, s, 3).
        inside: uint8 (m, s, s, 3), of the same images.
        straddling_regions: for each crop the slide or region that it is from; none is both trained and tested
            on, so that training and test share no pixels. At least 4 regions.
        inside_regions: the same for the inner crops.
        updates: of the training of each.
        width: of their networks.
        draws: halves drawn for the interval.
        device: where they train.
        seed: of training and draws.

    Raises:
        InvalidValueError: fewer than 4 regions, or a region without crops of both kinds.
    """
    labels = [np.asarray(straddling_regions), np.asarray(inside_regions)]
    regions = np.unique(labels[0])
    if len(regions) < 4 or not np.array_equal(regions, np.unique(labels[1])):
        raise InvalidValueError(
            f"visible joints need at least 4 regions with crops of both kinds, got {len(regions)} with "
            f"straddling and {len(np.unique(labels[1]))} with inner ones"
        )
    folds = [np.searchsorted(regions, label) % 2 for label in labels]
    scores = [np.empty(len(label), np.float32) for label in labels]
    for fold in (0, 1):
        train = [crops[f != fold] for crops, f in zip((straddling, inside), folds, strict=True)]
        net = train_classifier(*train, updates=updates, width=width, device=device, seed=seed)
        for crops, score, f in zip((straddling, inside), scores, folds, strict=True):
            score[f == fold] = classify(net, crops[f == fold])

    def mean_auc(chosen: np.ndarray) -> list[float]:
        among = [np.isin(label, regions[chosen]) for label in labels]
        parts = [
            auc(*(s[a & (f == fold)] for s, a, f in zip(scores, among, folds, strict=True)))
            for fold in (0, 1)
        ]
        return [float(np.nanmean(parts))]  # a draw may have no region of one fold, never of both

    return jackknife(mean_auc, [len(regions)], draws=draws, seed=seed, bounds=(0, 1))[0]


def _verdict(
    net: CropClassifier, straddling: np.ndarray, inside: np.ndarray, accuracy: float, draws: int, seed: int
) -> DomainDifferentiation:
    over, within = (classify(net, crops) > 0 for crops in (straddling, inside))

    def shares(i: np.ndarray, j: np.ndarray) -> list[float]:
        return [over[i].mean(), within[j].mean(), over[i].mean() - within[j].mean()]

    found = jackknife(shares, [len(over), len(within)], draws=draws, seed=seed, bounds=(-1, 1))
    return DomainDifferentiation(found[0], found[1], found[2], accuracy)


def _joints(extent: int, pitch: int, phases: Sequence[int], room: int) -> np.ndarray:
    """Positions of the joints that have room on both sides."""
    every = np.unique([p for phase in phases for p in range(phase % pitch, extent, pitch)])
    return every[(every >= room) & (every <= extent - room)]


def _inner_starts(extent: int, pitch: int, phases: Sequence[int], size: int) -> np.ndarray:
    """Where a crop may start, on one axis, so that it keeps away from every joint."""
    starts = np.arange(max(0, extent - size + 1))
    for phase in phases:
        into = (starts - phase) % pitch
        outside_first = starts + size + MARGIN <= phase % pitch  # before the first joint there is none
        starts = starts[((into >= MARGIN) & (into + size + MARGIN <= pitch)) | outside_first]
    return starts


def _crop(image: np.ndarray, corner: list[int], size: int) -> np.ndarray:
    return image[corner[0] : corner[0] + size, corner[1] : corner[1] + size]
