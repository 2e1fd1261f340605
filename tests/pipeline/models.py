"""A small network with random weights: no picture, but every path of the code."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from wsigen.config import SampleConfig
from wsigen.geometry import Size
from wsigen.nn.denoiser import Denoiser
from wsigen.nn.snapshot import save_snapshot
from wsigen.pipeline.networks import InPrecision
from wsigen.pipeline.outputs import HEOutput
from wsigen.pipeline.plan import plan_slide
from wsigen.pipeline.sample import SampleRun
from wsigen.pipeline.stainers import Stainers
from wsigen.sampling.preset import GuidedConfig, Preset, ScheduleConfig
from wsigen.sampling.spec import Execution

QUICK = Preset(
    base=ScheduleConfig(solver="heun", steps=3),
    guided=GuidedConfig(
        solver="dpmpp_2m",
        steps=3,
        sigma_start=1.0,
        relax_sigma=0.2,
        shift="drift",
        drift=0.25,
        background_skip=True,
    ),
)

PAINT = Preset(
    base=ScheduleConfig(solver="euler", steps=1),
    guided=GuidedConfig(solver="euler", steps=4, sigma_start=1.0, relax_sigma=0.2, shift="drift", drift=0.25),
)


def small_net(classes: tuple[str, ...] = ()) -> Denoiser:
    """Reproducible weights, patch sizes 16 and 64; classes that look different."""
    torch.manual_seed(0)
    net = Denoiser(
        patchify=4,
        block_out_channels=(32, 32),
        pixel_channels=4,
        context_channels=4,
        patch_sizes=(16, 64),
        mpp_range=(0.25, 64.0),
        classes=classes,
    )
    torch.nn.init.normal_(net.pixel_out.weight, std=0.05)
    if net.class_embedding is not None:
        torch.nn.init.normal_(net.class_embedding.weight)
    return net.eval().requires_grad_(False)


def small_snapshot(folder: Path) -> Path:
    """The small network as a snapshot folder."""
    save_snapshot(small_net(), folder)
    return folder


def small_job(out: Path, **changes: object) -> HEOutput:
    """A 512-px slide in three stages from patches of 64 px."""
    values = {
        "whole": Size.square(512),
        "stages": 3,
        "k": 2,
        "mpp": 0.5,
        "seed": 0,
        "model": "small",
        "model_hash": "0",
        "preset": QUICK,
        "preset_name": "quick",
        "dtype": "float32",
        "out": out,
        "name": "a",
    }
    return HEOutput(**(values | changes))  # pyright: ignore[reportArgumentType]


def small_run(
    he: HEOutput,
    stainers: Stainers | None = None,
    *,
    order: Literal["wavefront", "steps"] = "wavefront",
    batch_size: int = 4,
    overwrite: bool = False,
) -> SampleRun:
    """What makes a slide with the small network."""
    net, execution = small_net(), Execution(batch_size=batch_size, order=order)
    return SampleRun(
        config=SampleConfig(schedule=order),
        slides=(he,),
        denoiser=InPrecision(net, torch.float32),
        stainers=stainers,
        background=(243, 243, 243),
        execution=execution,
        plan=plan_slide(he, execution),
        overwrite=overwrite,
    )
