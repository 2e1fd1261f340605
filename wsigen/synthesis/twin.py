"""One IHC slide to make: everything that its pixels follow from, and where it goes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from wsigen import __version__
from wsigen.geometry import Size
from wsigen.slide.journal import BlockJournal
from wsigen.slide.pyramid import pyramid_levels
from wsigen.slide.write import Layout, SlideFiles, estimate_bytes, final_journal, layout_codec, write_slide
from wsigen.stain.engine.stream import Norm
from wsigen.synthesis.state import drop_other_state, is_written

NOTICE = "synthetic stain: computed by a network from an H&E image, not seen in any tissue, not for diagnosis"


class Look(Protocol):
    """How the pixels of a slide become others."""

    @property
    def label(self) -> str:
        """What it is called in names of files."""
        ...

    @property
    def marker(self) -> str:
        """What it is called in messages."""
        ...

    @property
    def stainer(self) -> str:
        """The network's name."""
        ...

    @property
    def stainer_hash(self) -> str:
        """Of its weights."""
        ...

    def facts(self) -> dict[str, Any]:
        """What the pixels follow from, besides those of the slide that is changed."""
        ...


@dataclass(frozen=True, kw_only=True)
class Stain:
    """How an H&E slide becomes one of another stain.

    Args:
        marker: what the stain shows, such as "SYN".
        stainer: the generator's name, for provenance.
        stainer_hash: of its weights.
        norm: whose statistics normalise a pixel.
        pitch: px from one patch of statistics to the next.
        dtype: precision of the network.
    """

    marker: str
    stainer: str
    stainer_hash: str
    norm: Norm
    pitch: int
    dtype: str

    @property
    def label(self) -> str:
        """What it is called in names of files."""
        return f"IHC-{self.marker}"

    def facts(self) -> dict[str, Any]:
        """What the pixels follow from, besides those of the H&E."""
        norm = {"norm": asdict(self.norm), "stats_pitch": self.pitch, "dtype": self.dtype}
        named = {"marker": self.marker, "stainer": self.stainer, "stainer_hash": self.stainer_hash}
        return {"version": __version__, **named, **norm}


@dataclass(frozen=True, kw_only=True)
class TwinJob:
    """An IHC slide that is asked for.

    Args:
        stain: how it comes about.
        source: facts about the H&E that say which pixels it has.
        size: of both, in pixels.
        mpp: µm/px of both.
        out: folder.
        name: base name of the files.
        layout: of the file.
    """

    stain: Look
    source: Mapping[str, Any]
    size: Size
    mpp: float
    out: Path
    name: str
    layout: Layout = "linked-ome"

    @property
    def slide(self) -> Path:
        """The finished IHC slide."""
        return self.out / f"{self.name}_{self.stain.label}.ome.tif"

    @property
    def work(self) -> Path:
        """Where the state of the unfinished run is kept."""
        return self.out / f".{self.name}_{self.stain.label}.partial"

    @property
    def disk_bytes(self) -> int:
        """Bytes on disk while it is made, if all of it were tissue."""
        return 2 * estimate_bytes(self.size, layout_codec(self.layout), pyramid_levels(self.size))

    def fingerprint(self) -> str:
        """Hash of what the pixels follow from: an unfinished run is continued only by the very same job."""
        names = ("stainer", "slide")
        facts = {**self.stain.facts(), **self.source, "mpp": self.mpp}
        facts = {key: value for key, value in facts.items() if key not in names}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    def is_finished(self) -> bool:
        """Whether this very slide is there already."""
        return is_written(self.slide, self.fingerprint(), self.layout)

    def open_journal(self, *, overwrite: bool = False, block: int = 2048) -> BlockJournal:
        """Where its rows are kept until it is complete.

        Args:
            overwrite: drop the unfinished state of another job.
            block: side of a journal's block.

        Raises:
            OutputError: the folder holds another job's state, or the disk refuses.
        """
        folder, fingerprint = self.work / "rows", self.fingerprint()
        if overwrite:
            drop_other_state([folder], fingerprint, [layout_codec(self.layout).name])
        return final_journal(folder, self.size, self.layout, fingerprint, block=block)

    def write(self, journal: BlockJournal, *, overwrite: bool) -> SlideFiles:
        """Write the slide from its complete journal.

        Args:
            journal: from ``open_journal``.
            overwrite: replace an existing slide.

        Raises:
            OutputError: the slide exists, or the disk refuses.
        """
        facts = {"notice": NOTICE, **self.stain.facts(), "source": dict(self.source)}
        return write_slide(
            journal,
            self.slide,
            mpp=self.mpp,
            layout=self.layout,
            provenance={**facts, "layout": self.layout, "fingerprint": self.fingerprint()},
            overwrite=overwrite,
        )
