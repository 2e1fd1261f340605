"""Sample H&E slides and, on the way, their IHC slides: from a `SampleConfig` to files.

`open_run` loads the networks and plans the slides, `SampleRun.make` makes them (`wsigen.pipeline.run`): the
cascade samples stage by stage, each guided by the one above; rows of the last stage go to the H&E's journal
and through the stainers to those of the IHC slides; complete journals become the files.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import torch

from wsigen.config import SampleConfig, parse_mpp, parse_region, parse_size
from wsigen.diffusion.step import DenoiserFunction, OfClass
from wsigen.errors import InvalidValueError
from wsigen.files import write_bytes
from wsigen.geometry import Colour, Region, Size
from wsigen.pipeline.levels import fill_region, region_readers
from wsigen.pipeline.networks import InPrecision, Networks, UpscalerInPrecision, warn_of_untrained
from wsigen.pipeline.outputs import HEOutput, Output
from wsigen.pipeline.plan import (
    SlidePlan,
    check_memory,
    describe_denoiser,
    describe_stages,
    describe_stains,
    describe_upscaler,
    plan_largest,
    plan_slide,
    time_text,
)
from wsigen.pipeline.progress import ProgressBar
from wsigen.pipeline.rows import BackgroundWriter, PairStore, translated_rows
from wsigen.pipeline.run import Progress, Run
from wsigen.pipeline.seeds import slide_mpp, write_table
from wsigen.pipeline.source import Overview, open_overview, size_and_stages
from wsigen.pipeline.stainers import Rendering, Stainers, open_stainers
from wsigen.runtime import choose_device, choose_dtype, format_bytes
from wsigen.sampling.cascade import run_cascade
from wsigen.sampling.preset import Preset, load_preset
from wsigen.sampling.rows import RowStore
from wsigen.sampling.spec import Execution, GivenSpec, StageSpec, UpscaleSpec, diffused
from wsigen.sampling.upscale import UpscalerFunction
from wsigen.slide.journal import BlockJournal
from wsigen.slide.provenance import beside
from wsigen.slide.write import SlideFiles
from wsigen.stain.normalise.norm import Norm

if TYPE_CHECKING:
    from wsigen.nn.model import Model

NAME = "synthetic"
"""Base name of slides by default, before the seed."""

log = logging.getLogger(__name__)


def sample(config: SampleConfig) -> list[SlideFiles]:
    """Make the slides of a call of ``sample``, or continue with those that were interrupted.

    Returns:
        The files that were written: of each H&E slide, then of its IHC slides.

    Raises:
        See `open_run` and `Run.make`.
    """
    return open_run(config).make()


def open_run(config: SampleConfig, networks: Networks | None = None) -> SampleRun:
    """Load the networks and plan the slides; nothing is written.

    Args:
        config: of the call.
        networks: where loaded networks are kept; runs that share it load them once.

    Raises:
        SnapshotError: the model or a stainer cannot be loaded.
        SlideError: the overview cannot be read.
        InvalidValueError: this machine has no such device, the size does not fit, the region is outside the
            slide, the preset needs an upscaler that is missing or has another k, or the model has no such
            class.
    """
    networks, config = networks or Networks(), _resolved(config)
    device = choose_device(config.device)
    dtype = choose_dtype(config.dtype, device)
    series = _Series.of(config)
    model = _load_model(config, max(series.upscaled.values(), key=len), device, networks)
    stainers = None
    if config.stain is not None:
        rendering = Rendering(norm=Norm("dn"), device=device, dtype=dtype)
        stainers = open_stainers(config.stain, None, rendering, networks)
        for mpp in sorted({min(series.upscaled), max(series.upscaled)}):
            stainers.warn_of_scale(mpp)
    denoiser: DenoiserFunction = model.denoiser
    if config.class_label is not None:
        number = model.denoiser.class_number(config.class_label)
        denoiser = OfClass(model.denoiser, number, config.guidance)
    slides = _outputs(config, series, model, stainers, dtype)
    if config.class_label is not None and not diffused(slides[0].specs):
        raise InvalidValueError(
            f"--class {config.class_label} has no effect: --preset {config.preset} leaves all stages after "
            "--overview to the upscaler, which follows it; leave out --class, or pass --preset fast"
        )
    # From the last to the first, so that of slides that a plan cannot tell apart the first is kept.
    by_mpp = {he.mpp: he for he in reversed(slides)}
    kinds = {len(series.upscaled[mpp]): he for mpp, he in by_mpp.items()}
    warn_of_untrained([by_mpp[min(by_mpp)], by_mpp[max(by_mpp)]], model)
    upscaler = UpscalerInPrecision(model.upscaler, dtype) if model.upscaler else None
    execution, plan = plan_largest(
        [*kinds.values()],
        upscaler,
        stainers,
        device,
        batch_size=config.batch_size,
        order=config.schedule,
        memory=config.memory,
    )
    if stainers and plan.stains:
        stainers = stainers.with_tile(plan.stains.translation.tile)
    red, green, blue = model.denoiser.config["background"]
    return SampleRun(
        overwrite=config.overwrite,
        several=config.count > 1,
        config=config,
        slides=slides,
        denoiser=InPrecision(denoiser, dtype),
        upscaler=upscaler,
        stainers=stainers,
        background=(red, green, blue),
        execution=execution,
        plan=plan,
    )


@dataclass(frozen=True)
class _Series:
    """What a call asks for, before any network is loaded.

    Args:
        preset: of all slides.
        overview: that they start from, if any.
        mpps: µm/px of each slide by its seed.
        whole: size of each slide.
        stages: number of upscalings.
        upscaled: by µm/px, the stages that the upscaler makes.
    """

    preset: Preset
    overview: Overview | None
    mpps: dict[int, float]
    whole: Size
    stages: int
    upscaled: dict[float, list[int]]

    @classmethod
    def of(cls, config: SampleConfig) -> _Series:
        preset, overview = load_preset(config.preset), None
        if config.overview:
            overview = open_overview(config.overview, config.overview_mpp, config.overview_series)
        mpps = {seed: slide_mpp(config.mpp, seed) for seed in range(config.seed, config.seed + config.count)}
        whole, stages = size_and_stages(
            overview, size=parse_size(config.size), stages=config.stages, k=config.k, mpp=mpps[config.seed]
        )
        # Which stages the upscaler makes may differ from slide to slide, since it depends on their µm/px.
        upscaled = {
            mpp: [s for s in range(stages + 1) if preset.upscaler.makes(s, mpp * config.k ** (stages - s))]
            for mpp in mpps.values()
        }
        return cls(preset, overview, mpps, whole, stages, upscaled)


def _outputs(
    config: SampleConfig, series: _Series, model: Model, stainers: Stainers | None, dtype: torch.dtype
) -> tuple[HEOutput, ...]:
    """Return the slides of a call in the order of their seeds."""
    he = HEOutput(
        mpp=series.mpps[config.seed],
        out=config.out,
        name=_name(config, config.seed),
        layout=config.layout,
        whole=series.whole,
        stages=series.stages,
        k=config.k,
        seed=config.seed,
        model=config.model,
        model_hash=model.denoiser_hash,
        preset=series.preset,
        preset_name=config.preset,
        dtype=str(dtype).removeprefix("torch."),
        overview=series.overview,
        class_label=config.class_label or "",
        guidance=config.guidance,
        stains=stainers.stains if stainers else (),
        region=_region(config, series.whole),
        multiple=model.denoiser.stride,
    )
    # Only a slide that has stages of the upscaler depends on its weights.
    drawn = {"upscaler": config.upscaler or config.model, "upscaler_hash": model.upscaler_hash}
    return tuple(
        replace(he, seed=seed, name=_name(config, seed), mpp=mpp, **(drawn if series.upscaled[mpp] else {}))
        for seed, mpp in series.mpps.items()
    )


@dataclass(frozen=True, kw_only=True)
class SampleRun(Run):
    """A call of ``sample`` with everything resolved.

    Args:
        config: of the call.
        slides: to make; they differ in seed, name and µm/px.
        denoiser: D(x; sigma, mpp), of the slides' class, in the precision that it runs in.
        upscaler: G(y, z; µm/px), likewise; None if no stage needs it.
        stainers: of the IHC slides, if there are any.
        background: colour of background in the model's training slides.
        execution: device, batch size and schedule.
        plan: of the slide that takes most memory; others differ if their µm/px does.

    Memory: the band of the largest stage (see `SlidePlan`), a few rows of tiles for each slide, and the rows
        that the translator holds. For a region, see `wsigen.pipeline.levels`.

    Determinism: the slides follow from their `HEOutput.facts` and stains, up to the rounding of the networks'
        kernels.
    """

    config: SampleConfig
    slides: tuple[HEOutput, ...]
    denoiser: DenoiserFunction
    upscaler: UpscalerFunction | None = None
    stainers: Stainers | None = None
    background: Colour
    execution: Execution
    plan: SlidePlan

    @property
    def groups(self) -> Sequence[Sequence[Output]]:
        """Each H&E slide with its IHC slides."""
        return [(he, *he.ihc) for he in self.slides]

    @property
    def out_of_memory(self) -> str:
        """The message where the device runs out of memory."""
        batch = self.execution.batch_size
        return (
            f"{self.execution.device} has too little memory for batches of {batch} patches; run the same "
            f"command with --batch-size {max(1, batch // 2)}"
        )

    def make(self, *, progress: Progress | None = None, block: int = 2048) -> list[SlideFiles]:
        """Make the slides that do not exist yet, and of several a table; see `Run.make`."""
        written = super().make(progress=progress, block=block)
        if len(self.slides) > 1 and not self.slides[0].region:
            write_table(self.config.out, self.config.name or NAME)
        return written

    def disk_bytes(self, group: Sequence[Output]) -> int:
        """Return the bytes on disk, at most, while a slide and its IHC slides are made."""
        return self.plan.disk_bytes

    def check_memory(self) -> None:
        """Compare canvas and stainers with ``--memory``; a region takes neither.

        Raises:
            InvalidValueError: they do not fit.
        """
        config, plan = self.config, self.plan
        if self.slides[0].region:
            return
        stains = plan.stains.host_bytes if plan.stains else 0
        together = self.execution.device.type == "cpu"
        what = f"the canvas of --size {self.slides[0].whole} with --schedule {config.schedule}"
        check_memory(
            plan.canvas_bytes + stains if together else max(plan.canvas_bytes, stains),
            config.memory,
            f"{what} and its stainers take" if plan.stains else f"{what} takes",
            other="" if config.schedule == "wavefront" else " or --schedule wavefront",
        )

    def describe(self) -> str:
        """Measure a few evaluations; return stages, memory, disk and time as a table."""
        return self.measure()[0]

    def measure(self) -> tuple[str, float]:
        """Measure a few evaluations; return the table of `describe`, and the seconds of a slide."""
        he, plan, execution = self.plan.he, self.plan, self.execution
        lines, seconds = describe_denoiser(plan, self.denoiser, execution)
        upscaled, more = describe_upscaler(plan, self.upscaler, execution)
        lines, seconds, memory = [*lines, *upscaled], seconds + more, ""
        if self.stainers and plan.stains:
            stains, more = describe_stains(self.stainers, plan.stains)
            lines, seconds = [*lines, stains], seconds + more
            memory = f"; {format_bytes(plan.stains.host_bytes)} for stains"
        if made := _larger(he):
            lines.append(f"crop        made as {made} px, kept {he.whole} px: the upper left")
        lines += [
            f"time        {time_text(seconds)}{_skipped(he)}",
            f"memory      {format_bytes(plan.canvas_bytes)} of canvas, {execution.order} schedule{memory}",
            f"disk        {format_bytes(plan.disk_bytes)} at most while it is made",
        ]
        if len(self.slides) > 1:
            count, (low, high) = len(self.slides), parse_mpp(self.config.mpp)
            scales = f" of {low:g} to {high:g} µm/px" if low < high else ""
            lines.append(f"all         {count} slides{scales}, {time_text(count * seconds)}")
        return "\n".join([*describe_stages(plan), "", *lines]), seconds

    def fill(
        self,
        outputs: Sequence[Output],
        journals: Sequence[BlockJournal],
        writer: BackgroundWriter,
        progress: Progress | None,
    ) -> None:
        """Sample an H&E slide and translate its rows on the way; append the rows that journals lack."""
        (he, *ihc), (last, *sinks) = outputs, journals
        assert isinstance(he, HEOutput), "it comes first"
        which = [i for i, output in enumerate(he.ihc) if output in ihc]
        if he.region:
            fill_region(he.region, journals, region_readers(self, he, which), progress)
            return
        stores: list[RowStore] = []

        def store(stage: int) -> RowStore:
            if stage < he.stages:
                stores.append(he.open_stage(he.specs[stage], block=last.grid.block))
                return stores[-1]
            if not ihc:
                return last
            assert self.stainers is not None, "slides with stains come with stainers"
            rows = translated_rows(
                he.specs, stores, sinks, self.stainers.only(which), self.background, writer
            )
            return PairStore(last, rows)

        with closing(ProgressBar(plan_slide(he, self.execution, self.upscaler))) as bar:
            run_cascade(
                self.denoiser,
                he.specs,
                store,
                background=self.background,
                upscaler=self.upscaler,
                execution=self.execution,
                progress=lambda done: bar.update(done, progress),
            )
        if stores:
            write_bytes(beside(he.slide, ".png"), _png(stores[0], he.specs[0].size))


def _resolved(config: SampleConfig) -> SampleConfig:
    """Replace the preset "auto": one-step where there is an upscaler, else fast."""
    if config.preset != "auto":
        return config
    from wsigen.nn.model import has_upscaler

    upscales = config.upscaler is not None or has_upscaler(config.model)
    return replace(config, preset="one-step" if upscales else "fast")


def _load_model(
    config: SampleConfig, upscaled: Sequence[int], device: torch.device, networks: Networks
) -> Model:
    """Load the networks that the slides need.

    Raises:
        InvalidValueError: stages need an upscaler that is missing or has another k.
    """
    if not upscaled:
        if config.upscaler is not None:
            log.warning(
                "--upscaler is not used: --preset %s leaves all stages to the denoiser; one-step uses it",
                config.preset,
            )
        return networks.model(config.model, device=device, upscaled=False)
    model, given = networks.model(config.model, config.upscaler, device), config.upscaler or config.model
    if model.upscaler is None:
        raise InvalidValueError(
            f"--preset {config.preset} makes stages {upscaled[0]} to {upscaled[-1]} with an upscaler, and "
            f"--model {config.model} has none; pass --upscaler FOLDER, or --preset fast"
        )
    if model.upscaler.k != config.k:
        raise InvalidValueError(
            f"the upscaler of {given} enlarges {model.upscaler.k} times, --k is {config.k}; pass --k "
            f"{model.upscaler.k}, or --preset fast"
        )
    return model


def _name(config: SampleConfig, seed: int) -> str:
    """Return the base name of a slide's files; of a region without a name, with its place."""
    name = config.name or f"{NAME}-{seed}"
    if config.count > 1:
        name = f"{config.name or NAME}-{seed}"
    if config.region is None or config.name is not None:
        return name
    r = parse_region(config.region)
    return f"{name}-x{r.x}-y{r.y}-{r.width}x{r.height}"


def _region(config: SampleConfig, whole: Size) -> Region | None:
    if config.region is None:
        return None
    region = parse_region(config.region)
    if region.intersect(whole.region) != region:
        raise InvalidValueError(
            f"--region {config.region} must lie in the slide, which is {whole.width} x {whole.height} px; it "
            f"reaches from ({region.x}, {region.y}) to ({region.x1}, {region.y1})"
        )
    return region


def _larger(he: HEOutput) -> Size | None:
    """Return the size that a slide is cropped from, if it is cropped."""
    first = he.specs[0]
    made = (first.canvas if isinstance(first, StageSpec) else first.size).times(he.k**he.stages)
    return None if made == he.whole else made


def _skipped(he: HEOutput) -> str:
    """Return what the time estimate assumes about background."""
    skips = [spec for spec in he.specs if not isinstance(spec, GivenSpec) and spec.skip is not None]
    if not skips:
        return ""
    known = he.overview is not None and all(isinstance(spec, UpscaleSpec) for spec in skips)
    return " for as much background as the overview has" if known else " at most: background is skipped"


def _png(stage: RowStore, size: Size) -> bytes:
    """Encode stage 0 as it was sampled, to be compared with the slide that was made from it."""
    image = stage.read(size.region)
    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()
