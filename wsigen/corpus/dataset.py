"""Read a corpus: its slides as pairs, and its patches for training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

from wsigen.config.check import is_positive
from wsigen.corpus.manifest import read_config, read_manifest
from wsigen.corpus.plan import Item, plan_corpus
from wsigen.corpus.slides import overview
from wsigen.errors import InvalidValueError, SlideError
from wsigen.pipeline.networks import Networks
from wsigen.pipeline.pair import SampledPair
from wsigen.slide.levels import FileSlide, Slide
from wsigen.slide.read import FINEST_REQUEST, open_slide
from wsigen.slide.tissue import tissue_mask

_OPEN = 8  # slides that a process keeps open


@dataclass(frozen=True, kw_only=True)
class CorpusPair:
    """A slide of a corpus.

    Args:
        he: the H&E slide.
        ihc: its IHC slides by their markers, such as "SYN".
    """

    he: Slide
    ihc: Mapping[str, Slide]


class Corpus(Mapping[str, CorpusPair]):
    """A corpus of `wsigen corpus make`: pairs of H&E and IHC slides by their names.

    Slides that were kept as seeds are computed where they are read, which needs their models. Slides that
    the gate refused are left out.

    Args:
        folder: of the corpus.
        device: of slides that are computed: "auto", "cpu", "cuda", "cuda:1", "mps".

    Raises:
        SlideError: the folder holds no corpus, or no slide is finished.
        InvalidValueError: it is one of another version.
    """

    def __init__(self, folder: str | Path, *, device: str = "auto") -> None:
        self.folder = Path(folder)
        table = read_manifest(self.folder)
        if not table.accepted.any():
            raise SlideError(self.folder, "has no slide: the gate refused all; see its manifest.parquet")
        self.manifest: pd.DataFrame = table[table.accepted].set_index("name", drop=False)
        self._rows: dict[str, Any] = {str(row["name"]): row for row in self.manifest.to_dict("records")}
        self._device, self._networks = device, Networks()
        self._items: dict[str, Item] | None = None

    def __getitem__(self, name: str) -> CorpusPair:
        """Return a slide and its IHC slides.

        Raises:
            KeyError: there is no such slide.
            SlideError: its files are missing or damaged.
        """
        row = self._rows[name]
        if row["he"]:
            he, *ihc = (FileSlide(open_slide(self.folder / path)) for path in (row["he"], *row["ihc"]))
            return CorpusPair(he=he, ihc=dict(zip(row["stains"], ihc, strict=True)))
        if self._items is None:
            self._items = {item.name: item for item in plan_corpus(read_config(self.folder))}
        config = replace(self._items[name].config, seed=int(row["seed"]), device=self._device)
        pair = SampledPair(config, self._networks)
        return CorpusPair(he=pair.he, ihc=pair.ihc)

    def rows(self, split: str | None = None) -> list[dict[str, Any]]:
        """Return the rows of the manifest, of one split or of all.

        Raises:
            InvalidValueError: there is no slide in this split.
        """
        rows = [row for row in self._rows.values() if split in (None, row["split"])]
        if not rows:
            splits = ", ".join(dict.fromkeys(row["split"] for row in self._rows.values()))
            raise InvalidValueError(f"{self.folder} has no split {split!r}; it has {splits}")
        return rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        splits = self.manifest.split.value_counts()
        return f"Corpus({str(self.folder)!r}, {', '.join(f'{k}={v}' for k, v in splits.items())})"


class CorpusPatches(Dataset[dict[str, Any]]):
    """Patches of H&E and IHC of the same place, for training: a map-style dataset of PyTorch.

    Places lie on a grid of patches side by side, where enough of a patch is tissue; no two overlap. Which
    places there are is decided at the beginning, from each H&E at about 8 µm/px.

    Args:
        corpus: that it reads, or its folder.
        split: whose slides it reads; None for all.
        size: side of the patches in px.
        mpp: µm/px of the patches, that of the slides or coarser.
        tissue: least share of tissue in a patch of the H&E.
        count: number of places, drawn at random; None for all.
        seed: of that draw.

    Items are dicts: ``slide``, ``x`` and ``y`` (px at ``mpp``), ``he`` and, for each marker, ``ihc_MARKER``:
    uint8 tensors (3, size, size).

    Raises:
        SlideError: the corpus, or one of its files, cannot be read.
        InvalidValueError: no such split, no tissue, or µm/px finer than those of the slides.
    """

    def __init__(
        self,
        corpus: Corpus | str | Path,
        *,
        split: str | None = None,
        size: int = 256,
        mpp: float = 0.5,
        tissue: float = 0.5,
        count: int | None = None,
        seed: int = 0,
    ) -> None:
        self.corpus = corpus if isinstance(corpus, Corpus) else Corpus(corpus)
        self.size, self.mpp = size, mpp
        rows = self.corpus.rows(split)
        finest = max(row["mpp"] for row in rows)
        if not is_positive(mpp) or mpp < finest * FINEST_REQUEST:
            raise InvalidValueError(f"mpp must be at least {finest:g}, that of the slides, got {mpp!r}")
        places = [
            (row["name"], x, y)
            for row in rows
            for x, y in tissue_places(self.corpus[row["name"]].he, size, mpp, tissue)
        ]
        if not places:
            raise InvalidValueError(
                f"no patch of {size} px at {mpp:g} µm/px shows {tissue:.0%} tissue in {self.corpus.folder}; "
                "pass a smaller size or a lower share of tissue"
            )
        if count is not None:
            rng = np.random.default_rng(seed)
            chosen = np.sort(rng.choice(len(places), min(count, len(places)), replace=False))
            places = [places[i] for i in chosen]
        self.places: list[tuple[str, int, int]] = places
        self._pair = lru_cache(_OPEN)(self.corpus.__getitem__)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict[str, Any]:
        name, x, y = self.places[index]
        pair, side = self._pair(name), self.size * self.mpp

        def read(slide: Slide) -> torch.Tensor:
            image = slide.read_region_um(
                x=x * self.mpp, y=y * self.mpp, width=side, height=side, mpp=self.mpp
            )
            return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))

        stains = {f"ihc_{marker}": read(slide) for marker, slide in pair.ihc.items()}
        return {"slide": name, "x": x, "y": y, "he": read(pair.he), **stains}

    def __getstate__(self) -> dict[str, Any]:
        """Leave open files behind, so that loaders' processes open their own."""
        return {key: value for key, value in self.__dict__.items() if key != "_pair"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._pair = lru_cache(_OPEN)(self.corpus.__getitem__)


def tissue_places(
    slide: Slide, size: int, mpp: float, least: float, *, stride: int | None = None
) -> list[tuple[int, int]]:
    """Return where patches of a regular grid show enough tissue: x and y in px at ``mpp``, row by row.

    Args:
        slide: H&E.
        size: side of the patches in px.
        mpp: their µm/px.
        least: share of tissue.
        stride: px from one patch to the next, a divisor of ``size``; by default they lie side by side.
    """
    stride = stride or size
    steps = size // stride
    (width, height), um = slide.dimensions, slide.mpp
    across, down = (int(side * um / mpp / stride + 1e-6) for side in (width, height))
    if min(across, down) < steps:
        return []
    image, coarse = overview(slide)
    mask = tissue_mask(image, coarse).astype(np.float32)
    edge = stride * mpp / coarse  # of a cell of the grid, in pixels of the mask
    total = np.pad(mask.cumsum(0, dtype=np.float64).cumsum(1), ((1, 0), (1, 0))).astype(np.float32)
    xs, ys = np.arange(across + 1) * edge, np.arange(down + 1) * edge
    # The integral image between its pixels is bilinear, so shares of cells cut by an edge are exact.
    grid = cv2.remap(total, *np.meshgrid(xs.astype(np.float32), ys.astype(np.float32)), cv2.INTER_LINEAR)
    rows = grid[steps:] - grid[:-steps]
    share = (rows[:, steps:] - rows[:, :-steps]) / (steps * edge) ** 2
    return [(int(x) * stride, int(y) * stride) for y, x in np.argwhere(share >= least - 1e-4)]
