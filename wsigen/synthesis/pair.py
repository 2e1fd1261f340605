"""An H&E slide and its stains, sampled together: the translator sees every row before it is compressed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wsigen.geometry import Colour, Region, Size
from wsigen.sampling.pixels import background_of
from wsigen.sampling.rows import RowSink, RowStore
from wsigen.sampling.spec import AnySpec
from wsigen.stain.engine.stream import StreamTranslator
from wsigen.synthesis.behind import Behind
from wsigen.synthesis.glass import stage_glass
from wsigen.synthesis.stainers import Stainers
from wsigen.synthesis.twinrows import TwinRows


class PairSink:
    """Hands the rows of the last stage to the H&E's store, and to the translator of its stains.

    A translated row depends on H&E rows above and below it, so the stains are behind the H&E. A run that goes
    on begins at the first row that any of them needs: what the H&E has already is sampled again, to the same
    values, rather than read back from JPEG.

    Args:
        slide: store of the H&E.
        twins: the stains.

    Determinism: all rows are the same however often the run was interrupted, if the sampler's are.
    """

    def __init__(self, slide: RowStore, twins: TwinRows) -> None:
        self._slide, self._twins = slide, twins
        self._kept = slide.rows_done
        self.rows_done = min(self._kept, twins.first_row)

    def append(self, rows: np.ndarray) -> None:
        """Take the next rows: uint8 (any height ≥ 1, width, 3).

        Raises:
            OutputError: a disk refuses.
        """
        lacking = rows[max(0, self._kept - self.rows_done) :]
        if len(lacking):
            self._slide.append(lacking)
        self._twins.push(self.rows_done, rows)
        self.rows_done += len(rows)

    def read(self, region: Region) -> np.ndarray:
        """Pixels of the H&E that are kept already."""
        return self._slide.read(region)


def open_pair(
    stages: Sequence[RowStore],
    spec: AnySpec,
    default: Colour,
    stained: Sequence[RowSink],
    stainers: Stainers,
    behind: Behind,
) -> PairSink:
    """The sink of a slide's last stage, which makes its stains as well.

    Where there is glass is seen on the stage above the last one, as the sampler sees it; a slide of one stage
    is translated all over.

    Args:
        stages: stores of all stages, complete but for the last.
        spec: of the last stage.
        default: colour of glass in the model's training slides, for base images that show none.
        stained: sinks of the stains.
        stainers: of the stains.
        behind: writes the stains.
    """
    *above, slide = stages
    glass = None
    if above:
        side = spec.extent // spec.k ** len(above)
        colour = background_of(above[0].read(Region(0, 0, side, side)), default)
        glass = stage_glass(above[-1], spec.extent, spec.k, mpp=spec.mpp, colour=colour)
    size = Size(spec.extent, spec.extent)

    def begin(which: Sequence[int], start: int) -> StreamTranslator:
        return stainers.only(which).begin(size, glass, start)

    return PairSink(slide, TwinRows(stained, spec.extent, begin, behind))
