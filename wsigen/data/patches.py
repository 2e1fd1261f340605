"""Training patches as a pure function of (seed, image number, patch size).

Slide, µm/px, position and orientation of an image are drawn from a counter-based generator keyed by its
number. So any number of workers and processes, and a resumed run, see the same images.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch.utils.data import Dataset, Sampler

from wsigen.config import AugmentConfig, PatchGroup
from wsigen.data.augment import FINER, Variation, draw_variation
from wsigen.data.index import ROI_MARGIN, SlideEntry, SlideIndex
from wsigen.errors import InvalidValueError, SlideError
from wsigen.slide.read import SlideReader

# Enough that a narrow range of usable µm/px does not end a long run by chance.
ATTEMPTS = 4096

# Numbers of patches left out of a slide that are said; a run may go on for days.
_COUNTS = {10**n for n in range(1, 10)}

log = logging.getLogger(__name__)


class PatchKey(NamedTuple):
    """Identifies a training image.

    Attributes:
        number: its running number.
        size: side, px.
        mpp_range: smallest and largest µm/px; None: those of the data set.
    """

    number: int
    size: int
    mpp_range: tuple[float, float] | None = None


class Patch(NamedTuple):
    """One training image.

    Attributes:
        image: uint8 (3, size, size).
        mpp: µm/px.
        number: running number of the image.
        class_label: number of the slide's class; as many as there are classes for none.
    """

    image: torch.Tensor
    mpp: float
    number: int
    class_label: int = 0


def draw_mpp(u: float, mpp_range: tuple[float, float], sampling: str) -> float:
    """Return µm/px at quantile ``u`` in [0, 1) of the training distribution.

    Args:
        u: quantile.
        mpp_range: smallest and largest µm/px.
        sampling: "log-uniform", or "uniform" as in Harb et al. 2024.
    """
    low, high = mpp_range
    if sampling == "log-uniform":
        return float(low * (high / low) ** u)
    if sampling == "uniform":
        return low + (high - low) * u
    raise InvalidValueError(f"mpp_sampling must be 'log-uniform' or 'uniform', got {sampling!r}")


class PatchDataset(Dataset[Patch]):
    """Tissue patches from indexed slides at random µm/px.

    The µm/px is drawn first, then a slide among those that can serve it (no slide is enlarged), then a tissue
    pixel of its mask, then the position of that pixel in the patch. A share of the patches is placed
    anywhere, so that background is learnt too.

    Args:
        index: slides to draw from.
        seed: the run's seed.
        mpp_range: smallest and largest µm/px.
        mpp_sampling: "log-uniform" or "uniform".
        anywhere_fraction: share of patches placed without regard to tissue, in [0, 1].
        augment: random rotation by quarter turns and reflection, and ``vary``.
        vary: further variation of the patches; none by default.
        weight: draw usable slides equally ("slide"), or by area of "tissue".
        min_tissue: share of tissue in [0, 1] below which a patch placed on tissue is drawn again.
        classes: names of the slides' classes, by their numbers.
        class_dropout: share of patches whose class is dropped, for classifier-free guidance.

    Raises:
        InvalidValueError: no slide can serve the key at any µm/px of the range.

    Determinism:
        A patch depends on (seed, key) and the index alone. If a slide is damaged, another patch is drawn.

    Memory:
        The tissue masks, and each open slide's share of its reader's tile cache.
    """

    def __init__(
        self,
        index: SlideIndex,
        *,
        seed: int = 0,
        mpp_range: tuple[float, float] = (0.25, 150.0),
        mpp_sampling: str = "log-uniform",
        anywhere_fraction: float = 0.05,
        augment: bool = True,
        weight: Literal["slide", "tissue"] = "slide",
        min_tissue: float = 0.0,
        vary: AugmentConfig | None = None,
        classes: Sequence[str] = (),
        class_dropout: float = 0.0,
    ) -> None:
        self.vary = vary or AugmentConfig()
        self.min_tissue = min_tissue
        self.index = index
        self.weight = weight
        self.seed = seed
        self.mpp_range = mpp_range
        self.mpp_sampling = mpp_sampling
        self.anywhere_fraction = anywhere_fraction
        self.augment = augment
        self.classes, self.class_dropout = tuple(classes), class_dropout
        self._slides: dict[str, SlideReader] = {}
        self._damaged: Counter[str] = Counter()
        draw_mpp(0.5, mpp_range, mpp_sampling)

    def __getitem__(self, key: PatchKey) -> Patch:
        rng = np.random.Generator(np.random.Philox(key=[self.seed, key.number]))
        variation = self._variation(key.number)
        # Drawn again where no slide can serve the µm/px, the file is damaged, or there is too little tissue.
        for _ in range(ATTEMPTS):
            mpp = draw_mpp(rng.random(), key.mpp_range or self.mpp_range, self.mpp_sampling)
            usable = self.index.usable(key.size, mpp)
            if not usable:
                continue
            entry = self._draw_slide(usable, rng)
            try:
                image = self._cut_varied(entry, mpp, key.size, rng, variation)
            except SlideError as error:
                self._report(entry, error)
                continue
            if image is not None:
                break
        else:
            raise self._nothing(key.size, key.mpp_range)
        # The eight symmetries of the square: a quarter turn, then a reflection.
        if self.augment:
            image = np.rot90(image, int(rng.integers(4)))
            image = image[:, ::-1] if rng.random() < 0.5 else image
        pixels = torch.from_numpy(np.ascontiguousarray(rearrange(image, "h w c -> c h w")))
        return Patch(pixels, mpp, key.number, self._class_label(entry, key.number))

    def require(self, size: int, mpp_range: tuple[float, float] | None = None) -> None:
        """Check, before a run begins, that some slide can serve patches.

        Args:
            size: side, px.
            mpp_range: smallest and largest µm/px; None: those of the data set.

        Raises:
            InvalidValueError: no slide can at any µm/px.
        """
        quantiles = np.linspace(0, 1, 257).tolist()
        scales = (draw_mpp(u, mpp_range or self.mpp_range, self.mpp_sampling) for u in quantiles)
        if not any(self.index.usable(size, mpp) for mpp in scales):
            raise self._nothing(size, mpp_range)

    def _draw_slide(self, usable: list[SlideEntry], rng: np.random.Generator) -> SlideEntry:
        if self.weight == "slide":
            return usable[int(rng.integers(len(usable)))]
        # Inverse of the cumulative distribution of tissue over slides.
        areas = np.cumsum([e.tissue_um2 for e in usable])
        return usable[int(np.searchsorted(areas / areas[-1], rng.random(), side="right"))]

    def _nothing(self, size: int, mpp_range: tuple[float, float] | None) -> InvalidValueError:
        why = f" ({len(self._damaged)} slides are damaged)" if self._damaged else ""
        less = ", ask for less min_tissue" if self.min_tissue else ""
        return InvalidValueError(
            f"no slide can serve {size} px patches within {mpp_range or self.mpp_range} µm/px{why}; "
            f"widen mpp_range, use smaller patches{less}, or see `wsigen index` for what the slides offer"
        )

    def _report(self, entry: SlideEntry, error: SlideError) -> None:
        self._damaged[entry.slide] += 1
        count = self._damaged[entry.slide]
        if count == 1:
            log.warning("%s; the patch is left out, other patches of the slide are used", error)
        elif count in _COUNTS:
            log.warning("%s: %d patches are left out so far, since it is damaged", entry.path, count)
        self._slides.pop(entry.slide, None)  # opened again: it may have been replaced by a good file

    def _class_label(self, entry: SlideEntry, number: int) -> int:
        """Return the number of a slide's class, or that of none; dropped by a stream of its own."""
        apart = np.random.Generator(np.random.Philox(key=[self.seed, number], counter=[0, 0, 0, 2]))
        if entry.class_label not in self.classes or apart.random() < self.class_dropout:
            return len(self.classes)
        return self.classes.index(entry.class_label)

    def _variation(self, number: int) -> Variation:
        """Draw from a separate stream, so that slide, position and µm/px are the same without variation."""
        if not self.augment:
            return Variation()
        apart = np.random.Philox(key=[self.seed, number], counter=[0, 0, 0, 1])
        return draw_variation(self.vary, np.random.Generator(apart))

    def _cut_varied(
        self, entry: SlideEntry, mpp: float, size: int, rng: np.random.Generator, variation: Variation
    ) -> np.ndarray | None:
        source = variation.source_size(size)
        warps = variation.warps and entry.serves(source, mpp / FINER)
        if warps:
            image = self.cut(entry, mpp / FINER, source, rng, shown=FINER * size)
        else:
            image = self.cut(entry, mpp, size, rng)
        if image is None:
            return None
        return variation.stain(variation.warp(image, size) if warps else image, entry.background)

    def cut(
        self, entry: SlideEntry, mpp: float, size: int, rng: np.random.Generator, *, shown: int | None = None
    ) -> np.ndarray | None:
        """Cut a randomly placed patch of a given slide at a given µm/px.

        Args:
            entry: the slide.
            mpp: µm/px.
            size: side, px.
            rng: source of randomness.
            shown: side of the central square that remains after warping, px; it is placed on tissue.

        Returns:
            uint8 (size, size, 3); None where there is too little tissue.
        """
        anywhere, extent = rng.random() < self.anywhere_fraction, mpp * (shown or size)
        inside = mpp * size
        centre = place(entry, extent, rng, anywhere=anywhere, inside_um=inside, margin_um=mpp * ROI_MARGIN)
        if self.min_tissue and not anywhere and entry.tissue_share(centre, extent) < self.min_tissue:
            return None
        slide = self._slides.get(entry.slide)
        if slide is None:
            slide = self._slides[entry.slide] = entry.open()
        return slide.read_patch(centre, mpp, size, background=entry.background)


def place(
    entry: SlideEntry,
    extent_um: float,
    rng: np.random.Generator,
    *,
    anywhere: bool = False,
    inside_um: float | None = None,
    margin_um: float = 0.0,
) -> tuple[float, float]:
    """Return the centre (y, x) in µm of a square patch that contains a random tissue pixel of the slide.

    If the slide has a region of interest, the patch lies inside it, and its centre on tissue.

    Args:
        entry: the slide.
        extent_um: side of the patch, µm.
        rng: source of randomness; the same number of values is always drawn.
        anywhere: place it without regard to tissue.
        inside_um: side of the square around the centre that is kept inside the slide if it fits, µm; by
            default that of the patch.
        margin_um: further µm on each side that lie inside the region of interest.
    """
    kept = extent_um if inside_um is None else inside_um
    extent = (entry.height * entry.mpp, entry.width * entry.mpp)
    pick, u_y, u_x, v_y, v_x = rng.random(5)
    if entry.roi_png is not None:
        return entry.roi_centres[anywhere].draw(kept + 2 * margin_um, pick, (v_y, v_x))
    rows, cols = entry.tissue_cells
    if anywhere or len(rows) == 0:
        anchor = (v_y * extent[0], v_x * extent[1])
    else:
        i = int(pick * len(rows))
        anchor = ((rows[i] + v_y) * entry.mask_mpp, (cols[i] + v_x) * entry.mask_mpp)
    centre = []
    for a, u, side in zip(anchor, (u_y, u_x), extent, strict=True):
        # The anchor lies anywhere in the patch, which is moved into the slide where it fits.
        c = a + (u - 0.5) * extent_um
        half = kept / 2
        centre.append(min(max(c, half), side - half) if side >= kept else c)
    return centre[0], centre[1]


class PatchSchedule(Sampler[list[PatchKey]]):
    """The images of each update, for one process.

    Args:
        groups: the mix of patch sizes.
        seed: the run's seed.
        images: train until this many images are seen.
        first_update: update to begin at, when resuming.
        first_image: images seen before it.
        accumulation: micro-batches per update.
        rank: this process.
        processes: number of processes.

    Raises:
        InvalidValueError: a batch cannot be shared evenly.

    Determinism:
        Update u sees the same images whatever the number of processes and wherever the run was resumed.
    """

    def __init__(
        self,
        groups: list[PatchGroup],
        *,
        seed: int,
        images: int,
        first_update: int = 0,
        first_image: int = 0,
        accumulation: int = 1,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        for g in groups:
            if g.batch % (processes * accumulation):
                raise InvalidValueError(
                    f"data.patches.batch of {g.batch} patches of {g.size} px cannot be shared by {processes} "
                    f"processes × {accumulation} accumulation steps; "
                    f"make it a multiple of {processes * accumulation}"
                )
        self.groups, self.seed, self.images = groups, seed, images
        self.first_update, self.first_image = first_update, first_image
        self.accumulation, self.rank, self.processes = accumulation, rank, processes

    def group(self, update: int) -> PatchGroup:
        """Return the patch size and µm/px range drawn for an update."""
        weights = np.cumsum([g.weight for g in self.groups])
        u = np.random.Generator(np.random.Philox(key=[self.seed, update], counter=1)).random()
        return self.groups[int(np.searchsorted(weights / weights[-1], u, side="right"))]

    def __iter__(self) -> Iterator[list[PatchKey]]:
        update, number = self.first_update, self.first_image
        while number < self.images:
            g = self.group(update)
            share = g.batch // (self.processes * self.accumulation)
            for micro in range(self.accumulation):
                start = number + (micro * self.processes + self.rank) * share
                yield [PatchKey(start + i, g.size, g.mpp_range) for i in range(share)]
            number += g.batch
            update += 1


def collate(patches: list[Patch]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[int]]:
    """Stack patches: uint8 (b, 3, h, w), µm/px (b,), classes int64 (b,), numbers."""
    mpp = torch.tensor([p.mpp for p in patches], dtype=torch.float32)
    classes = torch.tensor([p.class_label for p in patches])
    return torch.stack([p.image for p in patches]), mpp, classes, [p.number for p in patches]
