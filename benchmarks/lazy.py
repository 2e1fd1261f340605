"""Reading a slide that is not there: seconds and memory of regions at random places, on one core.

    python benchmarks/lazy.py --size 65536 --stages 7 --reads 20

Level 0 is read where there is tissue, first with nothing in the cache but stage 0, then again at places whose
upper levels have been read before, as a viewer does that zooms in. Where the model has no upscaler, one of
the default shape with random weights takes its place: the arithmetic is the same, the picture is not.

The last line is one JSON object. Seconds on the clock depend on what else runs; ``cpu`` are seconds of this
process's own arithmetic.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import wsigen
from wsigen.geometry import Region


def with_upscaler(model: str, folder: Path) -> tuple[str, str | None]:
    """What to pass as model and upscaler: the model's own, or one with random weights."""
    import torch

    from wsigen.nn.snapshot import networks, resolve, save_snapshot
    from wsigen.nn.upscaler import Upscaler

    if Upscaler.__name__ in networks(resolve(model)):
        return model, None
    torch.manual_seed(0)
    save_snapshot(Upscaler(), folder / "upscaler")
    return model, str(folder / "upscaler")


def tissue_places(slide: wsigen.SyntheticSlide, side: int, count: int, seed: int) -> list[tuple[int, int]]:
    """Random (y, x) of level 0 whose neighbourhood shows something, on the coarsest level."""
    level = slide.level_count - 1
    width, height = slide.level_dimensions[level]
    image = slide.read(Region(0, 0, height, width), level).astype(int)
    glass = np.median(image[image.min(axis=2) >= 215], axis=0) if (image.min(axis=2) >= 215).any() else 243
    rows, cols = np.nonzero(np.abs(image - glass).max(axis=2) > 25)
    rng, scale = np.random.default_rng(seed), int(slide.level_downsamples[level])
    chosen = rng.integers(0, len(rows), count)
    limit = slide.dimensions[0] - side
    spots = rng.integers(0, scale, (count, 2)) + scale * np.stack([rows[chosen], cols[chosen]], axis=1)
    return [(min(int(y), limit), min(int(x), limit)) for y, x in spots]


def around(slide: wsigen.SyntheticSlide, y: int, x: int, side: int) -> Region:
    """What of level 1 a region of level 0 depends on, and more."""
    width, height = slide.level_dimensions[1]
    scale = int(slide.level_downsamples[1])
    whole = Region(y // scale, x // scale, side // scale + 1, side // scale + 1).pad(64)
    return whole.intersect(Region(0, 0, height, width))


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the clock, and of this process."""
    clock, own = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - own


def peak_rss_bytes() -> int:
    """The most memory this process has had resident."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def measure(slide: wsigen.SyntheticSlide, side: int, reads: int, seed: int) -> dict[str, object]:
    """Times of reads of ``side`` px squared at level 0."""
    drawn, drawn_cpu = timed(lambda: slide.read(Region(0, 0, 1, 1), slide.level_count - 1))
    places = tissue_places(slide, side, reads, seed)
    cold, warm = [], []
    for y, x in places:
        cold.append(timed(lambda y=y, x=x: slide.read_region((x, y), 0, (side, side))))
        slide.read(around(slide, y, x, side), 1)
        warm.append(timed(lambda y=y, x=x: slide.read_region((x, y), 0, (side, side))))
        print(f"({y}, {x}): cold {cold[-1][0]:.2f} s, warm {warm[-1][0]:.2f} s", file=sys.stderr)
    figures: dict[str, object] = {"stage_0_seconds": round(drawn, 2), "stage_0_cpu": round(drawn_cpu, 2)}
    for name, values in (("cold", cold), ("warm", warm)):
        for kind, column in zip(("seconds", "cpu"), zip(*values, strict=True), strict=True):
            figures[f"{name}_{kind}_first"] = round(column[0], 3)
            figures[f"{name}_{kind}_median"] = round(float(np.median(column)), 3)
            figures[f"{name}_{kind}_p95"] = round(float(np.percentile(column, 95)), 3)
    return figures


def main() -> None:
    """Make the slide, read it, print figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", type=int, default=65536)
    parser.add_argument("--stages", type=int, default=7)
    parser.add_argument("--mpp", type=float, default=0.5)
    parser.add_argument("--model", default="default")
    parser.add_argument("--overview", help="picture to start from instead of sampling stage 0")
    parser.add_argument("--overview-mpp", type=float)
    parser.add_argument("--side", type=int, default=256, help="of the regions, px")
    parser.add_argument("--reads", type=int, default=20)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--cache", default="512MiB")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    import torch

    from wsigen.runtime import keep_freed_memory

    torch.set_num_threads(args.threads)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        model, upscaler = with_upscaler(args.model, Path(folder))
        slide = wsigen.SyntheticSlide(
            seed=args.seed,
            size=args.size,
            stages=args.stages,
            mpp=args.mpp,
            model=model,
            upscaler=upscaler,
            overview=args.overview,
            overview_mpp=args.overview_mpp,
            device=args.device,
            cache=args.cache,
        )
        figures = measure(slide, args.side, args.reads, args.seed)
    how = {"size": slide.dimensions[0], "side": args.side, "reads": args.reads, "threads": args.threads}
    how |= {"random_weights": upscaler is not None, "cache": args.cache, "load": round(os.getloadavg()[0], 1)}
    print(json.dumps({**how, **figures, "peak_rss_bytes": peak_rss_bytes()}))


if __name__ == "__main__":
    main()
