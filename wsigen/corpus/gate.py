"""The privacy gate of a corpus: look for copies of training places in a slide before it counts as made.

Squares of the slide are searched for at every place of the training slides, in every orientation, by the
signatures of `wsigen.evaluation`. How near unrelated tissue comes is measured once, on squares of the
training slides that are searched for on those of other cases.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsigen.config.check import as_list
from wsigen.config.corpus import CorpusConfig, parse_sides
from wsigen.corpus.dataset import tissue_places
from wsigen.errors import InvalidValueError
from wsigen.evaluation.search import BUDGET, FEWEST_QUERIES, MOST_UNRELATED, SearchArea, search_slides
from wsigen.evaluation.sets import SlideSet, load_set
from wsigen.evaluation.signatures import SIDE, distinct, signature
from wsigen.evaluation.spots import TISSUE_SHARE, Reader, readable
from wsigen.runtime import usable_cpus
from wsigen.slide.levels import Slide

LEAST_UNRELATED = 10
"""Squares of real tissue that must have been searched for, so that a 1 % quantile means something."""
_QUANTILE = 0.01
_DECIMALS = 4

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Squares of one side.

    Attributes:
        um: side, µm.
        area: training slides that hold such squares.
        unrelated: distance that 1 % of real squares fall below, searched for on slides of other cases.
        limit: a nearer square is a copy.
    """

    um: float
    area: SearchArea
    unrelated: float
    limit: float


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The square of a slide that is nearest to a training slide.

    Attributes:
        squares: that were searched for; 0 where there is no tissue.
        distance: 1 - correlation of signatures; None where nothing was searched for.
        ratio: of the distance to that of unrelated real squares.
        copy: whether it is nearer than the limit.
        text: what was found and where, for people; empty where nothing was searched for.
    """

    squares: int
    distance: float | None
    ratio: float | None
    copy: bool
    text: str


@dataclass(frozen=True, kw_only=True)
class Gate:
    """Training slides, and how near a slide may come to them.

    Attributes:
        scales: sides of the squares, smallest first.
        squares: most of one side that are searched for in a slide.
        draws: most seeds that are tried for a slide.
        redraw: whether a refused slide is drawn again; otherwise it is left out.
    """

    scales: tuple[Scale, ...]
    squares: int
    draws: int
    redraw: bool

    def look(self, slide: Slide, seed: int) -> Finding:
        """Search the training slides for squares of a slide, half a side apart.

        Args:
            slide: H&E.
            seed: of the choice among more squares than ``squares``.

        Determinism: a function of the pixels, the gate and the seed.

        Memory: a few blocks of 768 × 768 cells, 32 of which are the side of a square.
        """
        searched, nearest = 0, None
        for scale in self.scales:
            if not fits(slide.dimensions, slide.mpp, scale.um):
                continue
            queries = self._queries(slide, scale, seed)
            if not len(queries):
                continue
            found = search_slides(queries, scale.area)
            searched += len(queries)
            best = int(found.distance.argmin())
            distance = float(found.distance[best])
            share = distance / scale.limit
            if np.isfinite(distance) and (nearest is None or share < nearest[0]):
                entry = scale.area.entries[int(found.slide[best])]
                y, x = found.centre[best]
                text = (
                    f"a square of {scale.um:g} µm is at distance {distance:.3f} from {entry.slide} around "
                    f"x {x:.0f}, y {y:.0f} µm, limit {scale.limit:.3f}"
                )
                nearest = share, distance, distance / scale.unrelated, text
        if nearest is None:
            return Finding(squares=searched, distance=None, ratio=None, copy=False, text="")
        share, distance, ratio, text = nearest
        return Finding(
            squares=searched,
            distance=round(distance, _DECIMALS),
            ratio=round(ratio, _DECIMALS),
            copy=share < 1,
            text=text,
        )

    def fingerprint(self) -> str:
        """Return a hash of the training slides and of the limits that follow from them."""
        entries = {entry.slide: entry for scale in self.scales for entry in scale.area.entries}
        slides = [
            (name, e.group, e.mpp, e.width, e.height, hashlib.sha256(e.mask_png).hexdigest())
            for name, e in sorted(entries.items())
        ]
        limits = [(scale.um, round(scale.limit, _DECIMALS)) for scale in self.scales]
        return hashlib.sha256(json.dumps([slides, limits]).encode()).hexdigest()

    def describe(self) -> str:
        """Return slides and limits in one line."""
        slides = len({entry.slide for scale in self.scales for entry in scale.area.entries})
        limits = ", ".join(f"{s.um:g} µm {s.limit:.3f} (unrelated {s.unrelated:.3f})" for s in self.scales)
        return f"{slides} training slides; squares nearer than this are copies: {limits}"

    def _queries(self, slide: Slide, scale: Scale, seed: int) -> np.ndarray:
        """Return signatures (n, 32, 32) of squares with tissue."""
        cell = scale.area.cell_mpp
        places = tissue_places(slide, SIDE, cell, TISSUE_SHARE, stride=SIDE // 2)
        if len(places) > self.squares:
            chosen = np.random.default_rng([seed, round(scale.um * 1000)]).permutation(len(places))
            places = [places[i] for i in np.sort(chosen[: self.squares])]
        pixels = (
            slide.read_region_um(x=x * cell, y=y * cell, width=scale.um, height=scale.um, mpp=cell)
            for x, y in places
        )
        signatures = np.array([signature(square) for square in pixels], np.float32).reshape(-1, SIDE, SIDE)
        return signatures[distinct(signatures)]


def open_gate(config: CorpusConfig) -> Gate | None:
    """Return the gate of a configuration; None without ``--gate``.

    Raises:
        SlideError: no training slide can be read.
        InvalidValueError: it is not known what the model was trained on, or the training slides are too few
            to tell how near unrelated tissue comes.
    """
    if config.gate is None:
        return None
    paths = as_list(config.gate_slides) or _slides_of(config.model)
    if not paths:
        raise InvalidValueError(
            f"--gate-slides must be given: nothing says which slides model {config.model!r} was trained on; "
            "pass them, or the index.parquet of its training run"
        )
    training = load_set("training", paths, config.gate_table, progress=True)
    scales, reasons = [], []
    for um in parse_sides(config.gate_um):
        area = SearchArea.of(training.entries, SIDE, um / SIDE)
        unrelated = _unrelated(training, area, config.seed)
        if len(unrelated) < LEAST_UNRELATED:
            reasons.append(f"{um:g} µm: {len(unrelated)} squares of unrelated tissue")
            continue
        near = float(np.quantile(unrelated, _QUANTILE))
        limit = min(config.gate_distance, config.gate_share * near)
        scales.append(Scale(um=um, area=area, unrelated=near, limit=limit))
    if reasons:
        what = f"{'; '.join(reasons)}, {LEAST_UNRELATED} are needed"
        if not scales:
            raise InvalidValueError(
                f"--gate-slides: the {len(training.entries)} slides do not show how near unrelated tissue "
                f"comes ({what}); pass slides of two cases at least, or smaller squares with --gate-um"
            )
        log.warning("the gate does not look at every --gate-um (%s)", what)
    redraw = config.gate == "redraw"
    draws = config.gate_draws if redraw else 1
    return Gate(scales=tuple(scales), squares=config.gate_squares, draws=draws, redraw=redraw)


def fits(dimensions: tuple[int, int], mpp: float, um: float) -> bool:
    """Return whether a slide of (width, height) px is large and fine enough for squares of a side."""
    return SIDE * mpp <= um * (1 + 1e-6) and um <= min(dimensions) * mpp * (1 + 1e-6)


def _slides_of(model: str) -> list[str]:
    """Return the index of the training run that wrote a snapshot; nothing if there is none."""
    index = Path(model).parent / "index.parquet"
    return [str(index)] if Path(model).is_dir() and index.is_file() else []


def _unrelated(training: SlideSet, area: SearchArea, seed: int) -> np.ndarray:
    """Return distances of training squares to the nearest place of other cases, float32 (n,)."""
    if len({entry.group for entry in area.entries}) < 2:
        return np.empty(0, np.float32)
    cpus = usable_cpus()
    # as many as the evaluation searches for, half of its budget at most
    count = min(MOST_UNRELATED, max(FEWEST_QUERIES, int(BUDGET / 2 / max(1, area.cells()))))
    spots = SlideSet("", area.entries).spots(SIDE, area.cell_mpp, count)
    reader = Reader(seed)
    seen = list(readable(lambda spot: signature(reader(spot)), spots, "squares", threads=cpus))
    signatures = np.array([found for _, found in seen], np.float32).reshape(-1, SIDE, SIDE)
    known = np.flatnonzero(distinct(signatures))
    groups = [seen[i][0].entry.group for i in known]
    distance = search_slides(signatures[known], area, groups=groups, threads=cpus).distance
    return distance[np.isfinite(distance)]
