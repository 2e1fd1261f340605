"""The index: for each slide its µm/px, tissue mask and split, and which patches it can serve."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wsigen.errors import SlideError
from wsigen.files import atomic_path
from wsigen.geometry import Colour, Size
from wsigen.slide.read import WholeSlide, open_slide
from wsigen.slide.view import View

# Patches down to this share of a slide's own µm/px count as not enlarged.
FINEST = 0.95

# Where the border has less tissue than this share, patches may reach beyond it.
CLEAR_BORDER = 0.05

# Pixels on each side of a patch that it may be displaced by, where places are rounded to pixels.
ROI_MARGIN = 1

SCHEMA = pa.schema(
    [
        ("slide", pa.string()),
        ("path", pa.string()),
        ("group", pa.string()),
        ("split", pa.string()),
        ("mpp", pa.float64()),
        ("height", pa.int64()),
        ("width", pa.int64()),
        ("background", pa.list_(pa.uint8(), 3)),
        ("tissue_um2", pa.float64()),
        ("tissue_fraction", pa.float64()),
        ("border_tissue", pa.float64()),
        ("mask_mpp", pa.float64()),
        ("mask_png", pa.binary()),
        ("finest_mpp", pa.float64()),
        ("series", pa.int64()),
        ("z", pa.int64()),
        ("roi_png", pa.binary()),
        ("class_label", pa.string()),
    ]
)


@dataclass(frozen=True, eq=False)
class Centres:
    """Where square patches can be centred so that they lie inside a region of interest.

    Args:
        cells: row · columns + column of each cell of the mask, int32 (n,), by falling distance.
        distances: to the next cell outside, along the farther axis, uint16 (n,).
        columns: of the mask.
        mask_mpp: µm/px of the mask.

    Memory: 6 bytes for each cell.
    """

    cells: np.ndarray
    distances: np.ndarray
    columns: int
    mask_mpp: float

    @classmethod
    def of(cls, distance: np.ndarray, mask_mpp: float) -> Centres:
        """Return the cells of a map of distances that are not 0."""
        cells = np.flatnonzero(distance)
        found = distance.ravel()[cells]
        order = np.argsort(found, kind="stable")[::-1]
        return cls(cells[order].astype(np.int32), found[order], distance.shape[1], mask_mpp)

    @property
    def widest(self) -> float:
        """Side of the largest square that lies inside, µm; 0 if there are no cells."""
        return 2 * self._reach(0) if len(self.cells) else 0.0

    def draw(self, side_um: float, pick: float, v: tuple[float, float]) -> tuple[float, float]:
        """Return the centre (y, x) in µm of a square that lies inside.

        Args:
            side_um: of the square, at most `widest`.
            pick: quantile in [0, 1) among the cells.
            v: quantiles in [0, 1) of the place in the cell.
        """
        least = side_um / 2 / self.mask_mpp + 0.5
        count = len(self.cells) - int(np.searchsorted(self.distances[::-1], least))
        i = int(pick * max(1, count))
        slack = min(self.mask_mpp / 2, max(0.0, self._reach(i) - side_um / 2))
        cell = divmod(int(self.cells[i]), self.columns)
        y, x = ((n + 0.5) * self.mask_mpp + (2 * u - 1) * slack for n, u in zip(cell, v, strict=True))
        return y, x

    def _reach(self, i: int) -> float:
        """Return half the side of the largest square around the centre of a cell, µm."""
        return (float(self.distances[i]) - 0.5) * self.mask_mpp


@dataclass(frozen=True, kw_only=True)
class SlideEntry:
    """One slide of an index.

    Attributes:
        slide: path relative to the folder that was indexed, with "/"; the slide's name.
        path: absolute path.
        group: slides of one group are always in one split.
        split: "train", "val" or "test".
        mpp: µm/px of level 0.
        height: of level 0, px.
        width: of level 0, px.
        background: its background colour.
        tissue_um2: area of tissue, µm².
        tissue_fraction: of the slide's area.
        border_tissue: share of the slide's outermost pixels that are tissue.
        mask_mpp: µm/px of the mask.
        mask_png: the tissue mask, a PNG.
        finest_mpp: smallest µm/px to learn from it, 0 for its own; larger where finer pixels show artefacts,
            as after heavy compression.
        roi_png: the region of interest at ``mask_mpp``, a PNG: patches lie inside it, and ``mask_png`` has no
            tissue elsewhere. None for all of the slide.
        series: number of the image, in a TIFF or OME-Zarr that holds several.
        z: number of the focus plane, in an OME-TIFF or OME-Zarr that holds several.
        class_label: name of its class, such as its organ; None if it has none.
    """

    slide: str
    path: Path
    group: str
    split: str
    mpp: float
    height: int
    width: int
    background: Colour
    tissue_um2: float
    tissue_fraction: float
    border_tissue: float
    mask_mpp: float
    mask_png: bytes
    finest_mpp: float = 0.0
    series: int | None = None
    z: int | None = None
    roi_png: bytes | None = None
    class_label: str | None = None

    @property
    def finest(self) -> float:
        """Smallest µm/px to learn from it."""
        return max(self.mpp, self.finest_mpp)

    @property
    def size(self) -> Size:
        """Size of level 0."""
        return Size(self.height, self.width)

    @cached_property
    def mask(self) -> np.ndarray:
        """Tissue, bool (height, width) at ``mask_mpp``."""
        return self._decode(self.mask_png)

    @cached_property
    def tissue_cells(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of the mask's tissue pixels, int32."""
        rows, columns = np.nonzero(self.mask)
        return rows.astype(np.int32), columns.astype(np.int32)

    @cached_property
    def roi_centres(self) -> tuple[Centres, Centres]:
        """Centres of patches inside the region of interest: those on tissue, and all."""
        assert self.roi_png is not None, "the slide has a region of interest"
        # Chebyshev distance to the next cell outside; beyond the slide is outside.
        roi = np.pad(self._decode(self.roi_png).astype(np.uint8), 1)
        distance = cv2.distanceTransform(roi, cv2.DIST_C, 3)[1:-1, 1:-1].astype(np.uint16)
        return Centres.of(distance * self.mask, self.mask_mpp), Centres.of(distance, self.mask_mpp)

    def _decode(self, png: bytes) -> np.ndarray:
        pixels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_GRAYSCALE)
        if pixels is None:
            raise SlideError(self.path, "its mask in the index is damaged; run `wsigen index` again")
        return pixels > 0

    def open(self) -> WholeSlide:
        """Open the slide for reading.

        Raises:
            SlideError: the file is missing or damaged, or has another size than the one that was indexed.
        """
        slide = open_slide(self.path, self.mpp, View(self.series, self.z))
        if slide.size != self.size:
            found, said = (f"{s.width} x {s.height} px" for s in (slide.size, self.size))
            raise SlideError(self.path, f"is {found}, its index says {said}; run `wsigen index` again")
        return slide

    def serves(self, patch_size: int, mpp: float) -> bool:
        """Return whether patches of ``patch_size`` px at ``mpp`` µm/px can be cut.

        They may neither be enlarged nor finer than ``finest_mpp``. A patch larger than the slide is padded
        with background, which requires that the slide's border is background; but a patch of a slide with a
        region of interest lies in that.
        """
        if mpp < max(self.mpp * FINEST, self.finest_mpp):
            return False
        if self.roi_png is not None:
            return patch_size <= self.widest / mpp - 2 * ROI_MARGIN
        return patch_size * mpp <= self.widest or self.border_tissue < CLEAR_BORDER

    @property
    def widest(self) -> float:
        """Side of the largest square inside the slide, or on tissue inside its region of interest, µm."""
        if self.roi_png is not None:
            return self.roi_centres[0].widest
        return self.mpp * min(self.height, self.width)

    def tissue_share(self, centre: tuple[float, float], extent_um: float) -> float:
        """Return the share of tissue in a square patch, in [0, 1]; outside the slide there is none.

        Args:
            centre: (y, x) in µm.
            extent_um: side of the patch, µm.
        """
        side = max(1, round(extent_um / self.mask_mpp))
        top, left = (round(c / self.mask_mpp - side / 2) for c in centre)
        inside = self.mask[max(0, top) : max(0, top + side), max(0, left) : max(0, left + side)]
        return float(inside.sum()) / side**2

    def to_row(self) -> dict[str, object]:
        """Return the entry as a row of ``SCHEMA``."""
        return {name: str(self.path) if name == "path" else getattr(self, name) for name in SCHEMA.names}

    @classmethod
    def from_row(cls, row: dict[str, Any], folder: Path | None = None) -> SlideEntry:
        """Make an entry from a row of ``SCHEMA``; ``folder`` is where its slides were moved, if they were."""
        path = Path(row["path"]) if folder is None else folder.absolute() / row["slide"]
        finest = row["finest_mpp"] or 0.0  # older indexes have no such column
        return cls(**{**row, "path": path, "background": tuple(row["background"]), "finest_mpp": finest})

    def __getstate__(self) -> dict[str, object]:
        found = ("mask", "tissue_cells", "roi_centres")
        return {k: v for k, v in self.__dict__.items() if k not in found}


@dataclass(frozen=True)
class SlideIndex:
    """Slides to learn from.

    Attributes:
        entries: one per slide, ordered by name.
    """

    entries: tuple[SlideEntry, ...]

    def split(self, name: str) -> SlideIndex:
        """Return the slides of one split."""
        return SlideIndex(tuple(e for e in self.entries if e.split == name))

    def usable(self, patch_size: int, mpp: float) -> list[SlideEntry]:
        """Return the slides that can serve such patches; see `SlideEntry.serves`."""
        return [e for e in self.entries if e.serves(patch_size, mpp)]

    def save(self, path: Path) -> None:
        """Write the index as parquet.

        Raises:
            OutputError: the folder cannot be written to.
        """
        with atomic_path(Path(path)) as temporary:
            pq.write_table(
                pa.Table.from_pylist([e.to_row() for e in self.entries], schema=SCHEMA),
                temporary,
                compression="zstd",
            )

    @classmethod
    def load(cls, path: Path, folder: Path | None = None) -> SlideIndex:
        """Read an index.

        Args:
            path: made by `save`.
            folder: where the slides are now, if they were moved.

        Raises:
            SlideError: missing, or not an index.
        """
        try:
            rows = pq.read_table(path, schema=SCHEMA).to_pylist()
        except (OSError, pa.ArrowException, KeyError) as error:
            reason = f"not a readable index ({_first_line(error)})"
            raise SlideError(path, f"{reason}; make it with `wsigen index SLIDES --out {path}`") from error
        return cls(tuple(SlideEntry.from_row(row, folder) for row in rows))


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
