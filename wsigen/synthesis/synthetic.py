"""A slide that nobody has made, read like one in a file: its pixels are computed where they are looked at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from threading import Lock

import numpy as np

from wsigen.config import SampleConfig
from wsigen.geometry import Region, Size
from wsigen.runtime import parse_bytes
from wsigen.sampling.lazy import LazyCascade
from wsigen.slide.levels import Slide
from wsigen.slide.provenance import complete_provenance, flatten
from wsigen.stain.engine.batches import Compute
from wsigen.stain.engine.local import LocalTranslator
from wsigen.synthesis.job import SlideJob
from wsigen.synthesis.localglass import LocalGlass
from wsigen.synthesis.slides import Session, open_session
from wsigen.synthesis.stainers import Stainers
from wsigen.synthesis.twin import NOTICE


class SyntheticSlide(Slide):
    """An H&E slide as a function of its seed, with the interface of ``openslide.OpenSlide``.

    Any region of any level takes about the same time and memory, whatever the size of the slide. Level 0 is
    what ``sample`` with these values writes, before it is compressed. Level l is the stage of the cascade
    that has 2^l times the µm/px: what the finer levels were made from. Their means follow it, within the
    error that the upscaler leaves in its guide; in the file of ``sample`` coarser levels are these means.

    Args:
        seed: the slide follows from it.
        size: side in pixels, patch * k**stages.
        stages: number of upscalings; the slide has one level more.
        mpp: µm/px of level 0.
        model: "default" (bundled), a model folder, or a hub id; with an upscaler.
        upscaler: snapshot folder or hub id of an upscaler to take instead of the model's own.
        preset: "one-step", or a YAML file of a preset whose finer stages are the upscaler's.
        overview: picture or slide to start from instead of sampling stage 0: square, H&E. Size and stages
            then follow from it and ``mpp``.
        overview_mpp: µm/px of it, if the file does not say.
        stain: also IHC slides, of these stainers: "SYN" (bundled), a snapshot folder or a hub id; several
            with commas. They are found in ``ihc``.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        cache: what may be kept of levels that were computed, such as "512MiB", or a number of bytes.
        k: factor between two stages.

    Memory: the cache, stage 0, 37 MiB for each stage, and the features of the upscaler for 342 × 342 guide
        pixels: about 1 GiB in all. A region that is read comes on top.

    Determinism: pixels do not depend on the regions read, their order, threads or the cache: in float32 on
        the CPU bit for bit, elsewhere but for rounding. Threads may read at the same time, and take turns.

    Raises:
        SnapshotError: the model or a stainer cannot be loaded.
        InvalidValueError: a value that cannot be, a size that does not fit, a preset whose last stages are
            diffused, or a model without upscaler.
    """

    def __init__(
        self,
        *,
        seed: int = 7,
        size: int = 65536,
        stages: int = 7,
        mpp: float = 0.5,
        model: str | Path = "default",
        upscaler: str | Path | None = None,
        preset: str | Path = "one-step",
        overview: str | Path | None = None,
        overview_mpp: float | None = None,
        stain: str | None = None,
        device: str = "auto",
        cache: str | int = "512MiB",
        k: int = 2,
    ) -> None:
        kept = parse_bytes(str(cache), "cache")
        config = SampleConfig(
            seed=seed,
            size=None if overview else size,
            stages=None if overview else stages,
            mpp=mpp,
            k=k,
            model=str(model),
            upscaler=None if upscaler is None else str(upscaler),
            preset=str(preset),
            overview=None if overview is None else Path(overview),
            overview_mpp=overview_mpp,
            stain=stain,
            device=device,
        )
        session = open_session(config)
        job, downsamples = session.jobs[0], [k**level for level in range(len(session.specs))]
        cascade = open_cascade(session, job, cache=kept)
        facts = {**job.facts(), "fingerprint": job.fingerprint()}
        super().__init__(_Stages(cascade), downsamples, mpp, _properties(facts, mpp, job.size))
        self._seed, self._mpp = seed, mpp
        self._ihc: dict[str, Slide] = {}
        for which, twin in enumerate(job.twins):
            assert session.stainers is not None, "a job with stains comes with stainers"
            source = StainedStages(cascade, session.stainers, which)
            facts = {"notice": NOTICE, **twin.stain.facts(), "source": dict(twin.source)}
            facts["fingerprint"] = twin.fingerprint()
            properties = _properties(facts, mpp, job.size)
            self._ihc[twin.stain.marker] = Slide(source, downsamples, mpp, properties)

    @property
    def ihc(self) -> Mapping[str, Slide]:
        """The IHC slides by their markers, with the same interface.

        Level 0 is what ``sample`` writes. Level l is the H&E's level l, translated as a slide of its own.
        """
        return dict(self._ihc)

    def close(self) -> None:
        """Let go of networks and cache; neither this slide nor its IHC slides can be read any more."""
        for slide in self._ihc.values():
            slide.close()
        super().close()

    def __repr__(self) -> str:
        width, height = self.dimensions
        return f"SyntheticSlide(seed={self._seed}, {width} x {height} px at {self._mpp:g} µm/px)"


def open_cascade(session: Session, job: SlideJob, *, cache: int) -> LazyCascade:
    """The stages of a slide, to be read in any order.

    Args:
        session: with a model that has what the preset needs.
        job: one of the session's slides.
        cache: bytes of tiles that are kept.

    Raises:
        InvalidValueError: the slide cannot be had in parts.
    """
    red, green, blue = session.net.config["background"]
    return LazyCascade(
        job.specs(session.net),
        session.runner,
        session.upscaler,
        background=(red, green, blue),
        base=job.overview.pixels if job.overview else None,
        execution=session.machine,
        cache=cache,
    )


class _Stages:
    """The stages of a cascade as the levels of a slide."""

    def __init__(self, cascade: LazyCascade) -> None:
        self._cascade = cascade
        self.levels = _levels(cascade)

    def read(self, region: Region, level: int) -> np.ndarray:
        """Pixels of a region of a level."""
        return self._cascade.read(region, len(self.levels) - 1 - level)


class StainedStages:
    """The stages of a cascade, translated, as the levels of a slide.

    Args:
        cascade: of the H&E.
        stainers: the generators.
        which: of them.
        tile: side of what is rendered at once, px.

    Memory: see `LocalTranslator`; for each level that was read.
    """

    def __init__(self, cascade: LazyCascade, stainers: Stainers, which: int, *, tile: int = 512) -> None:
        self._cascade, self._stainers, self._which, self._tile = cascade, stainers, which, tile
        self._translators: dict[int, LocalTranslator] = {}
        self._lock = Lock()
        self.levels = _levels(cascade)

    def read(self, region: Region, level: int) -> np.ndarray:
        """Pixels of a region of a level: uint8 (height, width, 3)."""
        stage = len(self.levels) - 1 - level
        with self._lock:  # the network is one, and its norm layers know one pass at a time
            if stage not in self._translators:
                self._translators[stage] = self._translator(stage)
            return self._translators[stage].read(region)

    def _translator(self, stage: int) -> LocalTranslator:
        spec, how = self._cascade.specs[stage], self._stainers.rendering
        assert how.norm is not None, "generators are normalised"
        glass = None
        if stage:
            above, colour = self._cascade.source(stage - 1), self._cascade.background
            glass = LocalGlass(above, spec.extent, spec.k, mpp=spec.mpp, colour=colour)
        return LocalTranslator(
            self._stainers.nets[self._which],
            Size(spec.extent, spec.extent),
            self._cascade.source(stage).read,
            norm=how.norm,
            background=glass,
            pitch=how.pitch,
            tile=self._tile,
            machine=Compute(how.device, how.dtype),
        )


def _levels(cascade: LazyCascade) -> tuple[Size, ...]:
    return tuple(Size(spec.extent, spec.extent) for spec in reversed(cascade.specs))


def _properties(facts: Mapping[str, object], mpp: float, size: int) -> dict[str, str]:
    flat = flatten(complete_provenance(facts, mpp, size, size))
    return {f"wsigen.{key}": value for key, value in flat.items()}
