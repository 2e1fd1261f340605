"""Joints as a small network sees them: can crops over joints be told from crops within tiles?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from wsigen.data.index import SlideEntry
from wsigen.errors import SlideError
from wsigen.evaluate.collect import heeding
from wsigen.evaluate.draw import Reader
from wsigen.evaluate.estimate import Estimate
from wsigen.evaluate.joins.pairs import Twin, places
from wsigen.evaluate.joints import domain_differentiation, inner_crops, joint_visibility, straddling_crops
from wsigen.evaluate.results import Result
from wsigen.evaluate.sets import SlideSet
from wsigen.evaluate.windows import Grid, as_fine, by_name, grids, own_grid, some_slides, windows

CROP, CROPS, REGIONS, REAL_CROPS = 64, 24, 8, 400
Crops = tuple[np.ndarray, np.ndarray, list[str]]


def joint_rows(
    ours: SlideSet, real: SlideSet, *, updates: int, device: torch.device, seed: int, mark: str = ""
) -> list[Result]:
    """Visibility of the joints of every grid that is known, and of the same grid on real slides.

    Args:
        ours: slides with joints.
        real: slides without.
        updates: of the networks' training.
        device: where they train.
        seed: of crops and training.
        mark: before the name of the grid.
    """
    rows = []
    by_grid = {g: e for g, e in by_name(some_slides(ours.entries)).items() if g.rows is not None}
    for grid, entries in by_grid.items():
        mpp = entries[0].mpp
        fine = some_slides(as_fine(real.entries, mpp))
        mine, cautions = heeding(lambda g=grid, e=entries: _visible(e, g, None, updates, device, seed))
        lines = own_grid(entries[0], grid)
        floor, notes = heeding(lambda g=lines, e=fine, m=mpp: _visible(e, g, m, updates, device, seed))
        label = f"{mark}{grid.name}"
        rows.append(Result("joint_auc", None, mine, floor, "", (*cautions, *notes), label))
    return rows


def domain_rows(
    twins: Sequence[Twin],
    he: SlideSet,
    ihc: SlideSet,
    reader: Reader,
    *,
    updates: int,
    device: torch.device,
    seed: int,
) -> list[Result]:
    """Does a classifier of H&E and IHC take the twins for IHC, over joints as within tiles?

    Args:
        twins: of which the IHC is judged, at its own µm/px.
        he: real H&E slides.
        ihc: real IHC slides.
        reader: reads the real crops.
        updates: of the network's training.
        device: where it trains.
        seed: of crops and training.
    """
    first = twins[0].ihc
    known = [g for g in grids(first) if g.rows is not None]
    grid = known[-1]
    straddling, inside, _ = _crops([t.ihc for t in twins], grid, None, seed)
    source, target = (
        np.stack([reader(spot) for spot in places(slides, list(slides.entries), first.mpp, CROP, REAL_CROPS)])
        for slides in (he, ihc)
    )
    found, cautions = heeding(
        lambda: domain_differentiation(
            source, target, straddling, inside, updates=updates, device=device, seed=seed
        )
    )
    values = (found.difference, found.straddling) if found else (None, None)
    samples = f"{len(straddling)} crops over joints, {len(inside)} within"
    return [
        Result(key, None, value, None, samples, cautions, grid.name)
        for key, value in zip(("domain_difference", "domain_share"), values, strict=True)
    ]


def _visible(
    entries: Sequence[SlideEntry],
    grid: Grid,
    mpp: float | None,
    updates: int,
    device: torch.device,
    seed: int,
) -> Estimate:
    straddling, inside, regions = _crops(entries, grid, mpp, seed)
    return joint_visibility(
        straddling,
        inside,
        straddling_regions=regions,
        inside_regions=regions,
        updates=updates,
        device=device,
        seed=seed,
    )


def _crops(entries: Sequence[SlideEntry], grid: Grid, mpp: float | None, seed: int) -> Crops:
    """Crops over joints and within tiles, equally many of each window, and the window of each.

    The joints are each slide's own; at a given ``mpp``, on slides that have none, those of ``grid``.
    """
    over, within, labels = [], [], []
    for entry in entries:
        slide, at = entry.open(), entry.mpp if mpp is None else mpp
        lines = own_grid(entry, grid) if mpp is None else grid
        side = 2 * grid.pitch
        for region in windows(entry, at, side, seed=seed, most=max(2, REGIONS // len(entries))):
            try:
                image = slide.read_region(region, at, entry.background)
            except SlideError:
                continue
            joints = {
                "rows": [(j - region.y) % grid.pitch for j in lines.rows or ()],
                "cols": [(j - region.x) % grid.pitch for j in lines.cols or ()],
            }
            over.append(straddling_crops(image, grid.pitch, CROPS, size=CROP, seed=seed, **joints))
            within.append(inner_crops(image, grid.pitch, CROPS, size=CROP, seed=seed, **joints))
            labels += [f"{entry.slide} {region.y} {region.x}"] * CROPS
    empty = np.empty((0, CROP, CROP, 3), np.uint8)
    return np.concatenate([empty, *over]), np.concatenate([empty, *within]), labels
