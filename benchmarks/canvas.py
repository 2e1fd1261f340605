"""Memory and time of the canvas: the last stage at any size, analytic denoiser or upscaler, and no disk.

    python benchmarks/canvas.py --size 65536 --preset fast --steps 12 --denoiser gaussian
    python benchmarks/canvas.py --size 16384 --preset one-step --upscaler FOLDER

The last line is one JSON object: size, rows_alive, peak_rss_bytes, seconds, and what they were measured with.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import yaml

import wsigen
from wsigen.diffusion.gaussian import GaussianDenoiser
from wsigen.geometry import Region, Size
from wsigen.nn.model import load_model
from wsigen.sampling.plan import plan_any
from wsigen.sampling.preset import GuidedConfig, Preset, preset_from_dict
from wsigen.sampling.spec import Execution, StageProgress, StageSpec, UpscaleSpec, stage_specs
from wsigen.sampling.stage import StageRun
from wsigen.sampling.upscale import UpscaleRun

PRESETS = Path(wsigen.__file__).parent / "config" / "presets"
GLASS = (243, 243, 243)


class SyntheticGuide:
    """A smooth pattern with tissue everywhere, computed where it is read."""

    def read(self, region: Region) -> np.ndarray:
        """Pixels of a region."""
        y = np.arange(region.y, region.y1)[:, None, None] * np.array([0.011, 0.017, 0.013])
        x = np.arange(region.x, region.x1)[None, :, None] * np.array([0.019, 0.007, 0.023])
        rows, cols = 60 * np.sin(y), 60 * np.sin(x)
        return (rows.astype(np.int16) + cols.astype(np.int16) + 128).astype(np.uint8)


class CountingSink:
    """Checks that rows come whole and in order, adds them up and forgets them."""

    def __init__(self, extent: int) -> None:
        self.extent, self.rows_done, self.total = extent, 0, 0

    def append(self, rows: np.ndarray) -> None:
        """Take the next rows."""
        if rows.shape[1:] != (self.extent, 3) or not len(rows):
            raise AssertionError(f"rows of shape {rows.shape} at row {self.rows_done} of {self.extent}")
        self.rows_done += len(rows)
        self.total += int(rows.sum(dtype=np.int64))


def with_steps(preset: Preset, steps: int) -> Preset:
    """The preset with another number of steps in guided stages, relaxed at the same noise level."""
    config = preset.guided
    level = config.relax_sigma
    if level is None and config.relax_step is not None:
        level = config.sigmas()[config.relax_step]
    guided: GuidedConfig = replace(config, steps=steps, relax_step=None, relax_sigma=level)
    return replace(preset, guided=guided)


def peak_rss_bytes() -> int:
    """The most memory this process has had resident."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> None:
    """Run the stage and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", type=int, default=16384)
    parser.add_argument("--patch", type=int, default=512)
    parser.add_argument("--preset", default="fast", help="name in wsigen/config/presets, or a YAML file")
    parser.add_argument("--steps", type=int, help="instead of the preset's")
    parser.add_argument("--denoiser", choices=["gaussian"], default="gaussian")
    parser.add_argument("--upscaler", help="model or snapshot, for stages that the preset leaves to one")
    parser.add_argument("--schedule", choices=["wavefront", "steps"], default="wavefront")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    named = PRESETS / f"{args.preset}.yaml"
    preset = preset_from_dict(yaml.safe_load((named if named.exists() else Path(args.preset)).read_text()))
    if args.steps:
        preset = with_steps(preset, args.steps)
    stages = int(np.log2(args.size // args.patch))
    spec = stage_specs(preset, size=Size.square(args.size), stages=stages, k=2, mpp=0.5, seed=args.seed)[-1]
    machine = Execution(batch_size=args.batch_size, order=args.schedule)
    upscaler = load_model(upscaler=args.upscaler).upscaler if isinstance(spec, UpscaleSpec) else None
    plan = plan_any(spec, machine, upscaler)
    begun, shown = time.perf_counter(), [0.0]

    def progress(state: StageProgress) -> None:
        now = time.perf_counter() - begun
        if now > shown[0] + 10:
            shown[0] = now
            print(f"{now:6.0f} s  {state.patches / state.patches_total:6.1%}", file=sys.stderr, flush=True)

    sink = CountingSink(args.size)
    how = {"background": GLASS, "execution": machine, "progress": progress}
    if isinstance(spec, UpscaleSpec):
        assert upscaler is not None
        run = UpscaleRun(spec, upscaler, SyntheticGuide(), sink, **how)
    else:
        assert isinstance(spec, StageSpec)
        run = StageRun(spec, GaussianDenoiser(), SyntheticGuide(), sink, **how)
    run.run()
    assert sink.rows_done == args.size
    figures = {
        "size": args.size,
        "rows_alive": plan.rows_alive,
        "band_bytes": plan.band_bytes,
        "peak_rss_bytes": peak_rss_bytes(),
        "seconds": round(time.perf_counter() - begun, 1),
        "preset": args.preset,
        "steps": plan.steps,
        "patch": plan.patch.height,
        "schedule": args.schedule,
        "patch_steps": plan.patches,
        "threads": torch.get_num_threads(),
        "mean": sink.total / (3 * args.size**2),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
