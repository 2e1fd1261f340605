"""The presets against one another: same model, same seed, same run.

python benchmarks/sampler.py --size 2048 --stages 4

The last line is one JSON object: for each preset (``paper``, ``fast``, ``one_step``) its seconds, network
evaluations of one patch or tile each, and the seam score step8 of every stage after the first (1 = none), at
the joints of its last three patch grids, or where the tiles and cells of an upscaler meet; and how many
times faster the last preset is than the first.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from wsigen.errors import InvalidValueError
from wsigen.evaluation.seams import seam_ratio
from wsigen.geometry import Region, Size
from wsigen.nn.model import Model, load_model
from wsigen.pipeline.networks import InPrecision, UpscalerInPrecision
from wsigen.runtime import choose_batch_size, choose_device, choose_dtype
from wsigen.sampling.cascade import run_cascade
from wsigen.sampling.preset import load_preset
from wsigen.sampling.spec import AnySpec, Execution, StageProgress, StageSpec, stage_specs
from wsigen.sampling.tiles import CELL
from wsigen.slide.codec import ZSTD
from wsigen.slide.journal import BlockJournal

LARGEST_SCORED = 4096
PRESETS = ("paper", "fast", "one-step")


def measure(
    args: argparse.Namespace, name: str, model: Model, machine: Execution, folder: Path
) -> dict[str, object]:
    """Sample one slide with one preset."""
    net, dtype = model.denoiser, choose_dtype(args.dtype, machine.device)
    specs = stage_specs(
        load_preset(name),
        size=Size.square(args.size),
        stages=args.stages,
        k=2,
        mpp=args.mpp,
        seed=args.seed,
        multiple=net.stride,
    )
    journals: list[BlockJournal] = []
    evaluations = dict.fromkeys(range(len(specs)), 0)
    bar = tqdm(desc=name, unit="batch", mininterval=5)

    def store(stage: int) -> BlockJournal:
        size = specs[stage].size
        journals.append(BlockJournal(folder / str(stage), size, codec=ZSTD, levels=1, fingerprint=name))
        return journals[-1]

    def progress(done: StageProgress) -> None:
        evaluations[done.stage] = done.evaluations
        bar.update()

    red, green, blue = net.config["background"]
    start = time.perf_counter()
    run_cascade(
        InPrecision(net, dtype),
        specs,
        store,
        background=(red, green, blue),
        upscaler=UpscalerInPrecision(model.upscaler, dtype) if model.upscaler else None,
        execution=machine,
        progress=progress,
    )
    seconds = time.perf_counter() - start
    bar.close()
    if args.pictures:
        args.pictures.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(journals[-1])).save(args.pictures / f"{Path(name).stem}-{args.seed}.png")
    return {
        "seconds": round(seconds, 2),
        "evaluations": sum(evaluations.values()),
        "step8": [score(spec, journal) for spec, journal in zip(specs[1:], journals[1:], strict=True)],
    }


def picture(journal: BlockJournal) -> np.ndarray:
    """The middle of a stage, at most 4096 px a side."""
    side = min(journal.size.height, LARGEST_SCORED)
    corner = (journal.size.height - side) // 2
    return journal.read(Region(corner, corner, side, side))


def score(spec: AnySpec, journal: BlockJournal) -> float | None:
    """step8 of a stage, at the joints of its last three grids, or at the lattice of cells.

    None for a stage that is too small to have any.
    """
    image = picture(journal)
    origin = (journal.size.height - len(image)) // 2
    if isinstance(spec, StageSpec):
        pitch, last = spec.patch.width, spec.grids[-3:]
        rows, cols = [g.rows.offset - origin for g in last], [g.cols.offset - origin for g in last]
    else:  # tiles are whole cells where the size is a power of two
        pitch, rows, cols = CELL * spec.k, [-origin], [-origin]
    try:
        return round(seam_ratio(image, pitch, rows=rows, cols=cols), 3)
    except InvalidValueError:
        return None


def main() -> None:
    """Parse the command line, measure, print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--stages", type=int, default=4)
    parser.add_argument("--mpp", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="default")
    parser.add_argument("--upscaler", help="instead of the model's own")
    parser.add_argument("--presets", nargs="+", default=list(PRESETS), help="names or YAML files")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--batch-size", default="auto")
    parser.add_argument("--pictures", type=Path, help="folder for a PNG of each result")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    device = choose_device(args.device)
    model = load_model(args.model, args.upscaler, device)
    machine = Execution(
        device=device, batch_size=choose_batch_size(args.batch_size, args.size // 2**args.stages, device)
    )
    result: dict[str, object] = {"size": args.size, "stages": args.stages, "device": str(device)}
    seconds = []
    for name in args.presets:
        with tempfile.TemporaryDirectory() as folder:
            measured = measure(args, name, model, machine, Path(folder))
        result[Path(name).stem.replace("-", "_")] = measured
        seconds.append(measured["seconds"])
    result["speedup"] = round(seconds[0] / seconds[-1], 2)
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
