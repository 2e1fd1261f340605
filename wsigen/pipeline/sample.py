"""Sample H&E slides and, on the way, their IHC slides: from a `SampleConfig` to files.

`open_run` loads the networks and plans the slides, `SampleRun.make` makes them (`wsigen.pipeline.run`): the
cascade samples stage by stage, each guided by the one above; rows of the last stage go to the H&E's journal
and through the stainers to those of the IHC slides; complete journals become the files.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import torch
from tqdm.auto import tqdm

from wsigen.config import SampleConfig, parse_region
from wsigen.diffusion.step import DenoiserFunction
from wsigen.errors import InvalidValueError
from wsigen.files import write_bytes
from wsigen.geometry import Colour, Region, Size
from wsigen.pipeline.background import stage_background
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
    fit_tile,
    plan_slide,
    plan_stains,
    time_text,
)
from wsigen.pipeline.rows import BackgroundWriter, IHCRows, PairStore
from wsigen.pipeline.run import Progress, Run
from wsigen.pipeline.source import open_overview, size_and_stages
from wsigen.pipeline.stainers import Rendering, Stainers, open_stainers
from wsigen.runtime import choose_batch_size, choose_device, choose_dtype, format_bytes, parse_bytes
from wsigen.sampling.cascade import run_cascade
from wsigen.sampling.pixels import background_of
from wsigen.sampling.preset import load_preset
from wsigen.sampling.rows import RowSink, RowStore
from wsigen.sampling.spec import AnySpec, Execution, GivenSpec, StageProgress, UpscaleSpec, diffused
from wsigen.sampling.upscale import UpscalerFunction
from wsigen.slide.journal import BlockJournal
from wsigen.slide.provenance import beside
from wsigen.slide.write import SlideFiles
from wsigen.stain.engine.stream import StreamTranslator
from wsigen.stain.normalise.norm import Norm

if TYPE_CHECKING:
    from wsigen.nn.model import Model

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
            slide, or the preset needs an upscaler that is missing or has another k.
    """
    networks, config = networks or Networks(), _resolved(config)
    device = choose_device(config.device)
    dtype = choose_dtype(config.dtype, device)
    preset = load_preset(config.preset)
    overview = None
    if config.overview:
        overview = open_overview(config.overview, config.overview_mpp, config.overview_series)
    side, stages = size_and_stages(
        overview, size=config.size, stages=config.stages, k=config.k, mpp=config.mpp
    )
    upscaled = [
        s for s in range(stages + 1) if preset.upscaler.makes(s, config.mpp * config.k ** (stages - s))
    ]
    model = _load_model(config, upscaled, device, networks)
    stainers = None
    if config.stain is not None:
        rendering = Rendering(norm=Norm("dn"), device=device, dtype=dtype)
        stainers = open_stainers(config.stain, None, rendering, networks)
        stainers.warn_of_scale(config.mpp)
    he = HEOutput(
        mpp=config.mpp,
        out=config.out,
        name=_name(config),
        layout=config.layout,
        side=side,
        stages=stages,
        k=config.k,
        seed=config.seed,
        model=config.model,
        model_hash=model.denoiser_hash,
        preset=preset,
        preset_name=config.preset,
        dtype=str(dtype).removeprefix("torch."),
        upscaler=(config.upscaler or config.model) if upscaled else "",
        upscaler_hash=model.upscaler_hash if upscaled else "",
        overview=overview,
        stains=stainers.stains if stainers else (),
        region=_region(config, side),
        multiple=model.denoiser.stride,
    )
    warn_of_untrained(he, model)
    upscaler = UpscalerInPrecision(model.upscaler, dtype) if model.upscaler and upscaled else None
    patch = max([spec.patch for spec in diffused(he.specs)], default=he.specs[0].extent)
    execution = Execution(
        device=device, batch_size=choose_batch_size(config.batch_size, patch, device), order=config.schedule
    )
    allowed = parse_bytes(config.memory)
    if upscaler:
        execution = fit_tile(execution, lambda m: plan_slide(he, m, upscaler), allowed)
    plan = plan_slide(he, execution, upscaler)
    if stainers:
        canvas = plan.canvas_bytes if device.type == "cpu" else 0
        stains = plan_stains(stainers, Size(side, side), allowed=allowed - canvas)
        stainers, plan = stainers.with_tile(stains.translation.tile), replace(plan, stains=stains)
    red, green, blue = model.denoiser.config["background"]
    return SampleRun(
        overwrite=config.overwrite,
        several=config.count > 1,
        config=config,
        slides=tuple(
            replace(he, seed=seed, name=_name(config, seed))
            for seed in range(config.seed, config.seed + config.count)
        ),
        denoiser=InPrecision(model.denoiser, dtype),
        upscaler=upscaler,
        stainers=stainers,
        background=(red, green, blue),
        execution=execution,
        plan=plan,
    )


@dataclass(frozen=True, kw_only=True)
class SampleRun(Run):
    """A call of ``sample`` with everything resolved.

    Args:
        config: of the call.
        slides: to make; they differ in seed and name.
        denoiser: D(x; sigma, mpp) in the precision that it runs in.
        upscaler: G(y, z; µm/px), likewise; None if no stage needs it.
        stainers: of the IHC slides, if there are any.
        background: colour of background in the model's training slides.
        execution: device, batch size and schedule.
        plan: of the first slide.

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
        what = f"the canvas of --size {self.slides[0].side} with --schedule {config.schedule}"
        check_memory(
            plan.canvas_bytes + stains if together else max(plan.canvas_bytes, stains),
            config.memory,
            f"{what} and its stainers take" if plan.stains else f"{what} takes",
            other="" if config.schedule == "wavefront" else " or --schedule wavefront",
        )

    def describe(self) -> str:
        """Measure a few evaluations; return stages, memory, disk and time as a table."""
        he, plan, execution = self.slides[0], self.plan, self.execution
        lines, seconds = describe_denoiser(he, plan, self.denoiser, execution)
        upscaled, more = describe_upscaler(he, plan, self.upscaler, execution)
        lines, seconds, memory = [*lines, *upscaled], seconds + more, ""
        if self.stainers and plan.stains:
            stains, more = describe_stains(self.stainers, plan.stains)
            lines, seconds = [*lines, stains], seconds + more
            memory = f"; {format_bytes(plan.stains.host_bytes)} for stains"
        lines += [
            f"time        {time_text(seconds)}{_skipped(he)}",
            f"memory      {format_bytes(plan.canvas_bytes)} of canvas, {execution.order} schedule{memory}",
            f"disk        {format_bytes(plan.disk_bytes)} at most while it is made",
        ]
        if len(self.slides) > 1:
            lines.append(f"all         {len(self.slides)} slides, {time_text(len(self.slides) * seconds)}")
        return "\n".join([*describe_stages(plan), "", *lines])

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
                he.specs[-1], stores, sinks, self.stainers.only(which), self.background, writer
            )
            return PairStore(last, rows)

        with closing(ProgressBar(self.plan)) as bar:
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
            write_bytes(beside(he.slide, ".png"), _png(stores[0], he.specs[0].extent))


def translated_rows(
    spec: AnySpec,
    above: Sequence[RowStore],
    sinks: Sequence[RowSink],
    stainers: Stainers,
    default: Colour,
    writer: BackgroundWriter,
) -> IHCRows:
    """Return what translates the rows of a slide's last stage into the sinks of its IHC slides.

    Background is found in the stage above the last one, as the sampler finds it; a slide of one stage is
    translated all over.

    Args:
        spec: of the last stage.
        above: complete stores of the other stages.
        sinks: one for each stainer.
        stainers: of the IHC slides.
        default: colour of background, for base images that show none.
        writer: appends to the sinks.
    """
    background, size = None, Size(spec.extent, spec.extent)
    if above:
        side = spec.extent // spec.k ** len(above)
        colour = background_of(above[0].read(Region(0, 0, side, side)), default)
        background = stage_background(above[-1], spec.extent, spec.k, mpp=spec.mpp, colour=colour)

    def begin(which: Sequence[int], start: int) -> StreamTranslator:
        return stainers.only(which).begin(size, background, start)

    return IHCRows(sinks, spec.extent, begin, writer)


class ProgressBar:
    """A bar for each stage, with the time left for the whole slide.

    The time left is that of the pixels that networks have yet to see in all stages, at the pace of the stage
    that is running. Where background is skipped that pace carries over, since all stages show the same
    tissue.
    """

    def __init__(self, plan: SlidePlan) -> None:
        self.plan = plan
        self._bar: tqdm | None = None
        self._stage = -1
        self._started = self._last = time.perf_counter()

    def update(self, done: StageProgress, progress: Progress | None = None) -> None:
        """Show a finished batch of patches, and pass it on."""
        if done.stage != self._stage:
            self._next_stage(done)
        assert self._bar is not None
        self._last = time.perf_counter()
        elapsed, stages = self._last - self._started, self.plan.stages
        each = stages[done.stage].work / stages[done.stage].patches
        left = each * (done.patches_total - done.patches) + sum(s.work for s in stages[done.stage + 1 :])
        left_text = tqdm.format_interval(int(elapsed / (each * done.patches) * left))
        self._bar.set_postfix_str(f"slide in {left_text}", refresh=False)
        self._bar.update(done.patches - self._bar.n)
        if progress:
            progress(done)

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None

    def _next_stage(self, done: StageProgress) -> None:
        self.close()
        stage = self.plan.stages[done.stage]
        label = f"stage {done.stage}/{len(self.plan.stages) - 1} {stage.extent} px {stage.mpp:g} µm/px"
        unit = "tile" if stage.network == "upscaler" else "patch"
        self._bar = tqdm(total=done.patches_total, desc=label, unit=unit, smoothing=0.1)
        # The first report of a stage comes when its first batch is done, and that may be all of it.
        self._stage, self._started = done.stage, self._last


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


def _name(config: SampleConfig, seed: int | None = None) -> str:
    """Return the base name of a slide's files; of a region without a name, with its place."""
    seed = config.seed if seed is None else seed
    name = config.name or f"synthetic-{seed}"
    if config.count > 1:
        name = f"{config.name or 'synthetic'}-{seed}"
    if config.region is None or config.name is not None:
        return name
    r = parse_region(config.region)
    return f"{name}-x{r.x}-y{r.y}-{r.width}x{r.height}"


def _region(config: SampleConfig, side: int) -> Region | None:
    if config.region is None:
        return None
    region = parse_region(config.region)
    if region.intersect(Region(0, 0, side, side)) != region:
        raise InvalidValueError(
            f"--region {config.region} must lie in the slide, which is {side} x {side} px; it reaches from "
            f"({region.x}, {region.y}) to ({region.x1}, {region.y1})"
        )
    return region


def _skipped(he: HEOutput) -> str:
    """Return what the time estimate assumes about background."""
    skips = [spec for spec in he.specs if not isinstance(spec, GivenSpec) and spec.skip is not None]
    if not skips:
        return ""
    known = he.overview is not None and all(isinstance(spec, UpscaleSpec) for spec in skips)
    return " for as much background as the overview has" if known else " at most: background is skipped"


def _png(stage: RowStore, side: int) -> bytes:
    """Encode stage 0 as it was sampled, to be compared with the slide that was made from it."""
    image = stage.read(Region(0, 0, side, side))
    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()
