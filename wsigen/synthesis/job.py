"""One slide to make: everything that its pixels follow from, and where it goes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsigen import __version__
from wsigen.geometry import Size
from wsigen.nn.denoiser import Denoiser
from wsigen.sampling.plan import StagePlan, plan_any
from wsigen.sampling.preset import Preset
from wsigen.sampling.spec import AnySpec, Execution, stage_specs
from wsigen.sampling.upscale import UpscalerFunction
from wsigen.slide.codec import ZSTD
from wsigen.slide.pyramid import pyramid_levels
from wsigen.slide.write import Layout, estimate_bytes, layout_codec
from wsigen.synthesis.outlay import Outlay
from wsigen.synthesis.overview import Overview
from wsigen.synthesis.twin import Look, TwinJob


@dataclass(frozen=True, kw_only=True)
class SlideJob:
    """A slide that is asked for.

    Args:
        size: side of the slide in pixels.
        stages: number of upscalings.
        k: factor between two stages.
        mpp: µm/px of the slide.
        seed: of the slide.
        model: the model's name, for provenance.
        model_hash: of the denoiser's weights.
        preset: how it is sampled.
        preset_name: for provenance.
        dtype: precision of the network, for provenance.
        out: folder.
        name: base name of the files.
        layout: of the file.
        stains: that are made of it on the way.
        upscaler: name of the model that the upscaler is from, for provenance; empty if none is used.
        upscaler_hash: of its weights.
        overview: picture that takes the place of stage 0; None if that is sampled.
    """

    size: int
    stages: int
    k: int
    mpp: float
    seed: int
    model: str
    model_hash: str
    preset: Preset
    preset_name: str
    dtype: str
    out: Path
    name: str
    layout: Layout = "linked-ome"
    stains: tuple[Look, ...] = ()
    upscaler: str = ""
    upscaler_hash: str = ""
    overview: Overview | None = None

    @property
    def slide(self) -> Path:
        """The finished H&E slide."""
        return self.out / f"{self.name}_HE.ome.tif"

    @property
    def work(self) -> Path:
        """Where the state of the unfinished run is kept."""
        return self.out / f".{self.name}_HE.partial"

    @property
    def twins(self) -> tuple[TwinJob, ...]:
        """The IHC slides that go with it, made of its pixels as they are before compression."""
        source = {"slide": self.slide.name, "fingerprint": self.fingerprint(), "compression": "none"}
        size = Size(self.size, self.size)
        to = {"size": size, "mpp": self.mpp, "out": self.out, "name": self.name, "layout": self.layout}
        return tuple(TwinJob(stain=stain, source=source, **to) for stain in self.stains)

    def specs(self, net: Denoiser) -> tuple[AnySpec, ...]:
        """What each stage has to do.

        Raises:
            InvalidValueError: if the size does not fit patch * k**stages.
        """
        return stage_specs(
            self.preset,
            size=self.size,
            stages=self.stages,
            k=self.k,
            mpp=self.mpp,
            seed=self.seed,
            multiple=net.stride,
            given=self.overview is not None,
        )

    def facts(self) -> dict[str, Any]:
        """What the pixels follow from, as it is written into the slide."""
        upscaler = {"upscaler": self.upscaler, "upscaler_hash": self.upscaler_hash}
        overview = {"overview": dict(self.overview.facts)} if self.overview else {}
        return {
            "version": __version__,
            "model": self.model,
            "model_hash": self.model_hash,
            **(upscaler if self.upscaler_hash else {}),
            **overview,
            "seed": self.seed,
            "stages": self.stages,
            "k": self.k,
            "size": self.size,
            "mpp": self.mpp,
            "dtype": self.dtype,
            "preset": self.preset_name,
            "preset_values": self.preset.as_dict(),
        }

    def pair(self) -> dict[str, Any]:
        """What the slide says about its IHC slides; nothing if there are none."""
        twins = {
            twin.slide.name: {"marker": s.marker, "stainer": s.stainer, "stainer_hash": s.stainer_hash}
            for twin, s in zip(self.twins, self.stains, strict=True)
        }
        return {"pair": twins} if twins else {}

    def fingerprint(self) -> str:
        """Hash of what the pixels follow from: an unfinished run is continued only by the very same job."""
        names = ("model", "preset", "upscaler")
        facts = {key: value for key, value in self.facts().items() if key not in names}
        if self.overview:
            facts["overview"] = {key: value for key, value in facts["overview"].items() if key != "slide"}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class JobPlan:
    """What a job will take, before anything is sampled.

    Args:
        stages: of the slide.
        disk_bytes: at most, while the slide and its stains are made.
        stains: what the stains take, if there are any.
    """

    stages: tuple[StagePlan, ...]
    disk_bytes: int
    stains: Outlay | None = None

    @property
    def evaluations(self) -> int:
        """The denoiser's evaluations of one patch each, if no patch is skipped."""
        return sum(s.evaluations for s in self.stages if s.network == "denoiser")

    @property
    def tiles(self) -> int:
        """Tiles of the stages that the upscaler makes."""
        return sum(s.patches for s in self.stages if s.network == "upscaler")

    @property
    def patches(self) -> int:
        """Patch-steps of all stages."""
        return sum(s.patches for s in self.stages)

    @property
    def canvas_bytes(self) -> int:
        """Host or device memory of the largest stage: its canvas, or its rows and the upscaler's features."""
        return max(s.band_bytes + s.feature_bytes for s in self.stages)


def plan_job(
    job: SlideJob, specs: tuple[AnySpec, ...], machine: Execution, upscaler: UpscalerFunction | None = None
) -> JobPlan:
    """Sizes, patches, evaluations, memory and disk.

    Args:
        job: the slide.
        specs: of its stages.
        machine: for the schedule, and the size of the upscaler's tiles.
        upscaler: G(y, z; µm/px), if there are stages that it makes.
    """
    stages = tuple(plan_any(spec, machine, upscaler) for spec in specs)
    size = Size(job.size, job.size)
    final = estimate_bytes(size, layout_codec(job.layout), pyramid_levels(size))
    between = sum(estimate_bytes(Size(s.extent, s.extent), ZSTD) for s in stages[:-1])
    return JobPlan(stages, 2 * final + between + sum(twin.disk_bytes for twin in job.twins))
