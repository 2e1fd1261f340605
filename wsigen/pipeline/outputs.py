"""The slide files of a run: what their pixels follow from, where they go, and their unfinished state."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from wsigen import __version__
from wsigen.files import disk_errors
from wsigen.geometry import Region, Size
from wsigen.pipeline.source import Overview
from wsigen.sampling.preset import Preset
from wsigen.sampling.spec import AnySpec, StageSpec, UpscaleSpec, stage_specs
from wsigen.sampling.tiles import CELL
from wsigen.slide.codec import ZSTD
from wsigen.slide.journal import BlockJournal
from wsigen.slide.provenance import read_provenance
from wsigen.slide.pyramid import pyramid_levels
from wsigen.slide.write import Layout, SlideFiles, estimate_bytes, final_journal, layout_codec, write_slide
from wsigen.stain.normalise.norm import Norm

NOTICE = "synthetic stain: computed by a network from an H&E image, not seen in any tissue, not for diagnosis"


@dataclass(frozen=True, kw_only=True)
class Output(ABC):
    """A slide file to make.

    Args:
        mpp: µm/px of level 0.
        out: folder to write to.
        name: base name of the files.
        layout: of the file.
    """

    mpp: float
    out: Path
    name: str
    layout: Layout = "linked-ome"

    @property
    @abstractmethod
    def label(self) -> str:
        """What follows the base name: "HE", "IHC-SYN"."""

    @property
    @abstractmethod
    def size(self) -> Size:
        """Size of level 0 in pixels."""

    @property
    def pixel_um(self) -> tuple[float, float] | None:
        """Height and width of a pixel in µm, where they differ."""
        return None

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Return what the pixels follow from, as the provenance file states it."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a hash of what the pixels follow from; a run continues only state with its own."""

    @property
    def slide(self) -> Path:
        """The finished slide."""
        return self.out / f"{self.name}_{self.label}.ome.tif"

    @property
    def work(self) -> Path:
        """Folder of the unfinished state."""
        return self.out / f".{self.name}_{self.label}.partial"

    @property
    def rows(self) -> Path:
        """Folder of the journal that the slide is written from."""
        return self.work / "rows"

    @property
    def disk_bytes(self) -> int:
        """See `disk_bytes`."""
        return disk_bytes(self.size, self.layout)

    def is_finished(self) -> bool:
        """Return whether this very slide exists, by fingerprint and layout in its provenance file."""
        facts = read_provenance(self.slide)
        # the layout is no fact that pixels follow from, but it makes another file
        same = facts.get("fingerprint") == self.fingerprint() and facts.get("layout") == self.layout
        return same and self.slide.is_file()

    def open_journal(self, *, overwrite: bool = False, block: int = 2048) -> BlockJournal:
        """Open the journal of the slide's rows, with the rows that an interrupted run left.

        Args:
            overwrite: drop the unfinished state of other runs first.
            block: side of a journal's block; finished rows are kept in multiples of it.

        Raises:
            OutputError: the folder holds another run's state, or the disk refuses.
        """
        if overwrite:
            drop_other_state(self.work, self.fingerprint(), (ZSTD.name, layout_codec(self.layout).name))
        return final_journal(self.rows, self.size, self.layout, self.fingerprint(), block=block)

    def provenance(self) -> dict[str, Any]:
        """Return what is written into the slide and its provenance file.

        The number of threads is no fact that pixels follow from, but on the CPU they round with it.
        """
        facts, threads = self.facts(), torch.get_num_threads()
        return {**facts, "layout": self.layout, "fingerprint": self.fingerprint(), "threads": threads}

    def write(self, journal: BlockJournal, *, overwrite: bool) -> SlideFiles:
        """Write the slide from its complete journal.

        Raises:
            OutputError: the slide exists and ``overwrite`` is false, or the disk refuses.
        """
        return write_slide(
            journal,
            self.slide,
            mpp=self.mpp,
            layout=self.layout,
            provenance=self.provenance(),
            pixel_um=self.pixel_um,
            overwrite=overwrite,
        )

    def remove_work(self) -> None:
        """Remove the unfinished state."""
        shutil.rmtree(self.work, ignore_errors=True)


@dataclass(frozen=True, kw_only=True)
class Stain:
    """The stain that an H&E slide is translated into.

    Args:
        label: of file names: "IHC-SYN", or "like-NAME" for the stain of another H&E slide.
        marker: of messages: "SYN".
        facts: what the pixels follow from besides the H&E: stainer, its hash, dtype, normalisation.
    """

    label: str
    marker: str
    facts: Mapping[str, Any]

    @classmethod
    def of_marker(
        cls, marker: str, *, stainer: str, stainer_hash: str, norm: Norm | None, pitch: int, dtype: str
    ) -> Stain:
        """Return the stain of a stainer.

        Args:
            marker: what the stain shows, such as "SYN".
            stainer: its name, for provenance.
            stainer_hash: of its weights.
            norm: normalisation of its activations; None where there is none.
            pitch: px from one patch of statistics to the next.
            dtype: of the network.
        """
        named = {"marker": marker, "stainer": stainer, "stainer_hash": stainer_hash}
        how = {"norm": asdict(norm) if norm else None, "stats_pitch": pitch, "dtype": dtype}
        return cls(label=f"IHC-{marker}", marker=marker, facts={"version": __version__, **named, **how})

    @property
    def stainer(self) -> str:
        """Name of the stainer."""
        return self.facts["stainer"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """The H&E slide that an IHC slide is made from.

    Args:
        size: of what is made from it, in pixels.
        facts: what identifies its pixels.
        pixel_um: height and width of a pixel in µm, where they differ.
        skip_damaged: whether damaged tiles of it are shown as background.
    """

    size: Size
    facts: Mapping[str, Any]
    pixel_um: tuple[float, float] | None = None
    skip_damaged: bool = False


@dataclass(frozen=True, kw_only=True)
class IHCOutput(Output):
    """An IHC slide, or an H&E slide in the stain of another one.

    Args:
        stain: of the slide.
        source: the H&E or its region, with the same size and µm/px.
    """

    stain: Stain
    source: Source

    @property
    def label(self) -> str:
        """What follows the base name: "IHC-SYN"."""
        return self.stain.label

    @property
    def size(self) -> Size:
        """Size of level 0 in pixels."""
        return self.source.size

    @property
    def pixel_um(self) -> tuple[float, float] | None:
        """Height and width of a pixel in µm, where those of the H&E differ."""
        return self.source.pixel_um

    def facts(self) -> dict[str, Any]:
        """Return what the pixels follow from, as the provenance file states it."""
        # Not part of the fingerprint: rows that were made before a damaged tile are the same either way.
        skipped = {"skip_damaged": True} if self.source.skip_damaged else {}
        return {"notice": NOTICE, **self.stain.facts, **skipped, "source": dict(self.source.facts)}

    def fingerprint(self) -> str:
        """Return a hash of what the pixels follow from, names of files and models left out."""
        facts = {**self.stain.facts, **self.source.facts, "mpp": self.mpp}
        return _digest(_without(facts, "stainer", "slide", "mask"))


@dataclass(frozen=True, kw_only=True)
class HEOutput(Output):
    """An H&E slide, or a region of one, with the IHC slides that are made with it.

    Args:
        whole: size of the whole slide in pixels.
        stages: number of upscalings.
        k: factor between two stages.
        seed: of the slide.
        model: name of the model, for provenance.
        model_hash: of the denoiser's weights.
        preset: how the slide is sampled.
        preset_name: for provenance.
        dtype: of the networks, for provenance.
        upscaler: name of the upscaler's model, for provenance; empty if none is used.
        upscaler_hash: of its weights.
        overview: picture in place of stage 0; None if that is sampled.
        class_label: class of the tissue; empty for none.
        guidance: weight of classifier-free guidance towards it.
        stains: of the IHC slides.
        region: of level 0 that is made alone; None for the whole slide.
        multiple: pixels of which the denoiser's patches must be multiples.
    """

    whole: Size
    stages: int
    k: int
    seed: int
    model: str
    model_hash: str
    preset: Preset
    preset_name: str
    dtype: str
    upscaler: str = ""
    upscaler_hash: str = ""
    overview: Overview | None = None
    class_label: str = ""
    guidance: float = 1.0
    stains: tuple[Stain, ...] = ()
    region: Region | None = None
    multiple: int = 1

    @property
    def label(self) -> str:
        """What follows the base name: "HE"."""
        return "HE"

    @property
    def size(self) -> Size:
        """Size of level 0 of the file in pixels."""
        return self.region.size if self.region else self.whole

    @property
    def rows(self) -> Path:
        """Folder of the journal that the slide is written from: that of the last stage."""
        return super().rows if self.region else self._stage_folder(self.stages)

    @cached_property
    def specs(self) -> tuple[AnySpec, ...]:
        """The stages of the whole slide.

        Raises:
            InvalidValueError: an impossible size, patch or pixel size.
        """
        return stage_specs(
            self.preset,
            size=self.whole,
            stages=self.stages,
            k=self.k,
            mpp=self.mpp,
            seed=self.seed,
            multiple=self.multiple,
            given=self.overview is not None,
        )

    @cached_property
    def ihc(self) -> tuple[IHCOutput, ...]:
        """The IHC slides, made from the pixels as they are before compression."""
        facts = {"slide": self.slide.name, "fingerprint": self.fingerprint(), "compression": "none"}
        source = Source(size=self.size, facts={**facts, **self._place()})
        to = {"mpp": self.mpp, "out": self.out, "name": self.name, "layout": self.layout}
        return tuple(IHCOutput(stain=stain, source=source, **to) for stain in self.stains)

    def facts(self) -> dict[str, Any]:
        """Return what the pixels follow from, as the provenance file states it."""
        upscaler = {"upscaler": self.upscaler, "upscaler_hash": self.upscaler_hash}
        label = {"class": self.class_label, "guidance": self.guidance}
        whole = self.whole
        return {
            "version": __version__,
            "model": self.model,
            "model_hash": self.model_hash,
            **(upscaler if self.upscaler_hash else {}),
            **({"overview": dict(self.overview.facts)} if self.overview else {}),
            **(label if self.class_label else {}),
            "seed": self.seed,
            "stages": self.stages,
            "k": self.k,
            "size": whole.width if whole.height == whole.width else str(whole),
            "mpp": self.mpp,
            "dtype": self.dtype,
            "preset": self.preset_name,
            "preset_values": self.preset.as_dict(),
            **self._place(),
        }

    def fingerprint(self) -> str:
        """Return a hash of what the pixels follow from, names of files and models left out."""
        # names may change; hashes and values say what they stand for
        facts = _without(self.facts(), "model", "preset", "upscaler", "region")
        if self.overview:
            facts["overview"] = _without(facts["overview"], "slide")
        whole = _digest(facts)
        return _digest([whole, self._place()]) if self.region else whole

    def provenance(self) -> dict[str, Any]:
        """Return what is written into the slide: facts, seams of the last stage, and its IHC slides."""
        # a region's own pixels begin anywhere in the grid
        seams = {} if self.region else {"joints": seam_grids(self.specs[-1])}
        keys = ("marker", "stainer", "stainer_hash")
        pair = {ihc.slide.name: {key: ihc.stain.facts[key] for key in keys} for ihc in self.ihc}
        return {**super().provenance(), **seams, **({"pair": pair} if pair else {})}

    def open_stage(self, spec: AnySpec, *, block: int = 2048) -> BlockJournal:
        """Open the lossless journal of a stage before the last; a picture as stage 0 is complete.

        Raises:
            OutputError: the folder holds another run's state, or the disk refuses.
        """
        journal = BlockJournal(
            self._stage_folder(spec.stage),
            spec.size,
            codec=ZSTD,
            levels=1,
            fingerprint=self.fingerprint(),
            block=block,
        )
        # an interrupted run may have stored a part of it
        if spec.stage == 0 and self.overview and journal.rows_done < spec.size.height:
            journal.append(self.overview.pixels[journal.rows_done :])
        return journal

    def _stage_folder(self, stage: int) -> Path:
        return self.work / f"stage-{stage:02d}"

    def _place(self) -> dict[str, Any]:
        return {} if self.region is None else region_facts(self.region, self.whole)


def region_facts(region: Region, size: Size) -> dict[str, Any]:
    """Return where in a slide of this size a region lies, as provenance states it."""
    where = {"x": region.x, "y": region.y, "width": region.width, "height": region.height}
    return {"region": {**where, "of_width": size.width, "of_height": size.height}}


def disk_bytes(size: Size, layout: Layout) -> int:
    """Return the bytes on disk of the journal and the file of a slide, if all of it were tissue."""
    return 2 * estimate_bytes(size, layout_codec(layout), pyramid_levels(size))


def seam_grids(spec: AnySpec) -> list[dict[str, Any]]:
    """Return where patches met in the last two steps of a stage, for measures of seams.

    Tiles of an upscaler leave no seams; what may show is where skipped background ends.

    Args:
        spec: of the last stage.

    Returns:
        For each of the two grids, the last step's first, its name, the distance at which its lines repeat
        (``pitch``) and the first of them (``rows``, ``cols``), in px; a single one where both are the same.
    """
    if isinstance(spec, UpscaleSpec):
        cells = {"name": "cells of background", "pitch": CELL * spec.k, "rows": [0], "cols": [0]}
        return [cells] if spec.skip else []
    assert isinstance(spec, StageSpec), "the last stage is no picture"
    found: list[dict[str, Any]] = []
    for grid, name in zip(
        spec.grids[:-3:-1], ("patches, last step", "patches, step before it"), strict=False
    ):
        # One pitch for both directions: where patches are not square, it holds several lines of one of them.
        pitch = math.lcm(grid.rows.stride, grid.cols.stride)
        rows, cols = (list(range(lines.offset, pitch, lines.stride)) for lines in (grid.rows, grid.cols))
        place = {"pitch": pitch, "rows": rows, "cols": cols}
        if not any(place.items() <= other.items() for other in found):
            found.append({"name": name, **place})
    return found


def drop_other_state(work: Path, fingerprint: str, codecs: Collection[str]) -> None:
    """Remove the journals of other runs from a work folder; whatever is no journal stays.

    Args:
        work: the folder.
        fingerprint: of this run.
        codecs: names of the codecs that this run's journals have.

    Raises:
        OutputError: a journal cannot be removed.
    """
    for manifest in sorted(work.glob("*/journal.json")):
        try:
            found = json.loads(manifest.read_bytes())
            own = found["fingerprint"] == fingerprint and found["codec"] in codecs
        except (ValueError, KeyError, TypeError):
            own = False
        if not own:
            with disk_errors(manifest.parent):
                shutil.rmtree(manifest.parent)


def _without(facts: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in facts.items() if key not in names}


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
