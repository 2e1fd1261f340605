"""What the normalisers of the stain translator cost, and which seams they leave.

python benchmarks/stain.py --size 4096
python benchmarks/stain.py --size 1024 --width 16 --published
python benchmarks/stain.py --device cuda --dtype bfloat16 --tile 2048 --band 16384

Each of in, tin, kin, dn and dn_sparse (statistics at pitch 2048) translates the same image, with tiles of the
same size, in a process of its own: seconds_per_megapixel (statistics, thumbnail and halos included),
cpu_seconds_per_megapixel, peak_rss_bytes, of which Python, its libraries and the image took idle_rss_bytes
before, planned_bytes for the rest, step8 at pitch 512 (1 = none) beside that of the input. Then dn with other
tiles and in one piece: the largest difference from the first. --band times a band of a slide 65536 px wide.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.published import render_as_published
from wsigen.evaluation.seams import seam_ratio
from wsigen.geometry import Region, Size
from wsigen.runtime import choose_device, choose_dtype, keep_freed_memory
from wsigen.slide.read import open_slide
from wsigen.stain.engine.plan import plan_translation
from wsigen.stain.engine.render import Compute
from wsigen.stain.engine.statistics import prepare_constant
from wsigen.stain.engine.stream import StreamTranslator
from wsigen.stain.networks.generator import Generator
from wsigen.stain.normalise.norm import Norm
from wsigen.stain.stainer import load_stainer

PITCH, SPARSE, WIDE = 512, 2048, 65536
MODES = {"in": ("in", PITCH), "tin": ("tin", PITCH), "kin": ("kin", PITCH), "dn": ("dn", PITCH)}
MODES["dn_sparse"] = ("dn", SPARSE)
ROWS = 512
KILO = 1 if sys.platform == "darwin" else 1024  # the unit of ru_maxrss


def texture(size: int, seed: int = 0) -> np.ndarray:
    """Grain whose colour and contrast change from place to place, as tissue's do; no seams of its own."""
    rng = np.random.default_rng(seed)

    def noise(sigma: float, channels: int = 3) -> np.ndarray:
        step = max(1, int(sigma / 2))
        coarse = rng.standard_normal((size // step + 8, size // step + 8, channels)).astype(np.float32)
        smooth = cv2.GaussianBlur(coarse, (0, 0), max(0.5, sigma / step))
        large = cv2.resize(smooth, None, fx=step, fy=step, interpolation=cv2.INTER_CUBIC)[:size, :size]
        return large.reshape(size, size, channels) / large.std()

    contrast = 1 + 0.7 * np.tanh(noise(300, 1))
    image = (
        np.array([195, 140, 175], np.float32) + contrast * (12 * noise(1.5) + 12 * noise(6)) + 30 * noise(250)
    )
    return np.clip(image, 0, 255).astype(np.uint8)


def picture(args: argparse.Namespace) -> np.ndarray:
    """What is translated."""
    if args.image is None:
        return texture(args.size, args.seed)
    slide = open_slide(args.image, mpp=args.mpp)
    y, x = args.corner
    return slide.read_region(Region(y, x, args.size, args.size), slide.mpp)


def network(args: argparse.Namespace) -> Generator:
    """A stainer, or a published architecture with random weights."""
    if args.stainer:
        return load_stainer(args.stainer, torch.device("cpu"))
    torch.manual_seed(args.seed)
    return Generator(family=args.family, width=args.width).eval()


def translate(args: argparse.Namespace) -> dict[str, Any]:
    """One mode and tile, in this process; the result goes to a file."""
    image, net, (name, pitch) = picture(args), network(args), MODES[args.mode]
    norm, size = Norm.parse(name), Size(*image.shape[:2])
    device = choose_device(args.device)
    machine = Compute(device, choose_dtype(args.dtype, device))
    options: dict[str, Any] = {"pitch": pitch, "tile": args.tile, "dtype": machine.dtype, "device": device}
    planned = plan_translation(size, [net], norm=norm, **options).host_bytes
    idle = resident_bytes()
    for _ in StreamTranslator([net], Size(ROWS, ROWS), norm=Norm(), **options).push(image[:ROWS, :ROWS]):
        pass  # kernels are chosen and compiled when they are first used
    start, cpu = time.perf_counter(), time.process_time()
    constant = None
    if norm.is_constant:
        constant = prepare_constant([net], lambda r: crop(image, r), size, norm, pitch=pitch, machine=machine)
    stream = StreamTranslator([net], size, norm=norm, constant=constant, **options)
    out = np.concatenate(
        [rows for y in range(0, len(image), ROWS) for _, rows in stream.push(image[y : y + ROWS])]
    )
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    np.save(args.out, out)
    return {
        "seconds_per_megapixel": round(seconds * 1e6 / size.area, 4),
        "cpu_seconds_per_megapixel": round(cpu * 1e6 / size.area, 4),
        "peak_rss_bytes": resident_bytes(),
        "idle_rss_bytes": idle,
        "planned_bytes": planned,
        "rows_alive": stream.rows_alive,
    }


def resident_bytes() -> int:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KILO


def crop(image: np.ndarray, region: Region) -> np.ndarray:
    """A region of the picture."""
    return image[region.y : region.y1, region.x : region.x1]


def apart(args: argparse.Namespace, mode: str, tile: int) -> tuple[dict[str, Any], np.ndarray]:
    """One mode and tile, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.npy"
        command = [
            sys.executable,
            __file__,
            *sys.argv[1:],
            "--mode",
            mode,
            "--tile",
            str(tile),
            "--out",
            str(out),
        ]
        run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        return json.loads(run.stdout.splitlines()[-1]), np.load(out)


def compare_tiles(args: argparse.Namespace, dense: np.ndarray) -> dict[str, int]:
    """Largest difference, of 255, between dn with the tile of the benchmark, others, and one piece."""
    found = {}
    for tile in (*args.tiles, args.size) if args.whole else args.tiles:
        other = apart(args, "dn", tile)[1] if tile != args.tile else dense
        found[str(tile)] = int(np.abs(other.astype(np.int16) - dense).max())
    return found


def published_seams(args: argparse.Namespace, image: np.ndarray) -> dict[str, float | None]:
    """step8 of the layers as published, on the image's corner."""
    side = min(len(image), args.published_size) // PITCH * PITCH
    x = torch.from_numpy(image[:side, :side].copy()).permute(2, 0, 1) / 127.5 - 1
    seams = {"input": step8(image[:side, :side])}
    for kind in ("in", "tin", "kin", "dn", "dn-paper"):
        seams[kind] = step8(
            ((render_as_published(network(args), x, kind) + 1) * 127.5).permute(1, 2, 0).numpy()
        )
    return seams


def step8(image: np.ndarray) -> float | None:
    """The seam score at pitch 512; None for an image that holds no joint."""
    return round(seam_ratio(image, PITCH), 4) if len(image) >= PITCH + 32 else None


def wide(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds for a band of a slide 65536 px wide, and what they say of a square one."""
    image, net, device = picture(args), network(args), choose_device(args.device)
    rows = np.tile(image, (1, -(-WIDE // args.size), 1))[:, :WIDE]
    found: dict[str, Any] = {"rows": args.band}
    for mode in ("dn", "dn_sparse"):
        options: dict[str, Any] = {
            "norm": Norm(),
            "pitch": MODES[mode][1],
            "tile": args.tile,
            "device": device,
        }
        options["dtype"] = choose_dtype(args.dtype, device)
        for _ in StreamTranslator([net], Size(2 * args.tile, 2 * args.tile), **options).push(
            rows[: 2 * args.tile, : 2 * args.tile].copy()
        ):
            pass
        stream = StreamTranslator([net], Size(args.band, WIDE), **options)
        start = time.perf_counter()
        for y in range(0, args.band, ROWS):
            first = y % (len(rows) - ROWS + 1)
            for _ in stream.push(rows[first : first + min(ROWS, args.band - y)]):
                pass
        seconds = time.perf_counter() - start
        found[mode] = {"seconds": round(seconds, 2), "seconds_65536": round(seconds * WIDE / args.band, 1)}
    if device.type == "cuda":
        found["peak_device_bytes"] = torch.cuda.max_memory_allocated(device)
    return found


def normaliser_bytes(net: nn.Module, dtype: torch.dtype) -> int:
    """What the norm layers read and write for a patch of 512², each once: the fused kernel's traffic."""
    total = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        total += (inputs[0].numel() + output.numel()) * dtype.itemsize

    ghost = nn.Module.to(net, device="meta")
    for layer in ghost.modules():
        if isinstance(layer, nn.InstanceNorm2d):
            layer.register_forward_hook(count)
    ghost(torch.empty((1, 3, PITCH, PITCH), device="meta"))
    return total


def planned_wide(args: argparse.Namespace) -> dict[str, int]:
    """Host memory planned for a slide of 65536 × 65536 px, with a map of its glass."""
    device = choose_device(args.device)
    options: dict[str, Any] = {
        "device": device,
        "dtype": choose_dtype(args.dtype, device),
        "background_cell": 16,
    }
    size, net = Size(WIDE, WIDE), network(args)
    plans = {
        mode: plan_translation(size, [net], norm=Norm.parse(name), pitch=pitch, **options)
        for mode, (name, pitch) in MODES.items()
    }
    return {mode: plan.host_bytes for mode, plan in plans.items()}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All of it."""
    image = picture(args)
    result: dict[str, Any] = {"size": args.size, "tile": args.tile, "input_step8": step8(image)}
    made: dict[str, np.ndarray] = {}
    for mode in args.modes:
        result[mode], made[mode] = apart(args, mode, args.tile)
        result[mode]["step8"] = step8(made[mode])
        print(mode, result[mode], file=sys.stderr, flush=True)
    for kind in ("seconds", "cpu_seconds"):
        for mode in {"dn", "dn_sparse"} & made.keys() if "in" in made else ():
            ratio = result[mode][f"{kind}_per_megapixel"] / result["in"][f"{kind}_per_megapixel"]
            result[f"{mode}_over_in_{kind}"] = round(ratio, 3)
    if "dn" in made:
        result["dn_other_tiles"] = compare_tiles(args, made["dn"])
    if args.published:
        result["published_step8"] = published_seams(args, image)
    if args.band:
        result["wide"] = wide(args)
    dtype = choose_dtype(args.dtype, choose_device(args.device))
    result["planned_bytes_65536"] = planned_wide(args)
    result["normaliser_bytes_per_512_patch"] = normaliser_bytes(network(args), dtype)
    return result | {"threads": torch.get_num_threads(), "dtype": str(dtype), "device": args.device}


def main() -> None:
    """Parse the command line, measure, print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", type=int, default=2048, help="side of the image")
    parser.add_argument("--image", type=Path, help="a slide to take it from, instead of grain")
    parser.add_argument("--mpp", type=float, help="of a slide that does not say")
    parser.add_argument(
        "--corner", type=int, nargs=2, default=(0, 0), metavar=("Y", "X"), help="of the region"
    )
    parser.add_argument("--stainer", help="name or folder; default random weights of --family and --width")
    parser.add_argument("--family", default="cut")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--tile", type=int, default=512, help="of all modes but in, whose patches are of 512 px"
    )
    parser.add_argument("--tiles", type=int, nargs="*", default=[512, 768, 1024], help="to compare dn with")
    parser.add_argument("--whole", action="store_true", help="compare with the image in one piece, too")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--published", action="store_true", help="score the layers as published as well")
    parser.add_argument("--published-size", type=int, default=2048)
    parser.add_argument("--band", type=int, default=0, help="rows of a slide 65536 px wide to time")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--mode", choices=MODES, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    keep_freed_memory()
    print(json.dumps(translate(args) if args.mode else measure(args)))


if __name__ == "__main__":
    main()
