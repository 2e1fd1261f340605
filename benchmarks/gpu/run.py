"""The prepared run for one GPU: train both networks on a pack, sample with them, time it, bring it all back.

    python3 benchmarks/gpu/run.py --pack runs/gpu-pack --wheels runs/gpu-wheels --out FOLDER

Made for a machine that is lent for ten minutes, has no network and keeps nothing: every part has its own
limit, and whatever there is lies in FOLDER after each of them. results.json holds all figures; back.tar.0,
back.tar.1 and so on are one archive in pieces of 15 MiB, with model/ (both networks, float16), statistics,
logs and pictures. The last line is one JSON object with all figures.

Both trainings start at once. As soon as both run, each is timed with the other one stopped, and then both
together: they go on together if that makes more progress than taking turns. After three fifths of the time
they are stopped, and go on from their checkpoints with as many images as there is time for, at a falling
learning rate.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.gpu.parts import ROOT, PartError, Run

SMI = "timestamp,utilization.gpu,memory.used,power.draw"


def sample(run: Run, args: argparse.Namespace, slide: str, stain: bool, seconds: float) -> dict[str, Any]:
    """Make a slide, or a pair, and time it."""
    size, _, stages = slide.partition(":")
    name = f"{'pair' if stain else 'he'}-{size}"
    trained = run.work / "model"
    words = [sys.executable, "sample.py", f"--size={size}", f"--stages={stages}", f"--preset={args.preset}"]
    words += [f"--model={trained if trained.is_dir() else args.model}", f"--device={args.device}"]
    words += [f"--out={run.work / 'slides'}", f"--name={name}", *(["--stain=SYN"] if stain else [])]
    took, _ = run.command(name, words, seconds)
    files = {p.name: p.stat().st_size for p in sorted((run.work / "slides").glob(f"{name}_*.tif"))}
    pixels = int(size) ** 2 * len(files)
    for file in files:  # a pair of gigapixels is several gigabytes
        (run.work / "slides" / file).unlink()
    return {"seconds": round(took, 2), "megapixels_per_second": round(pixels / took / 1e6, 1), "bytes": files}


def compare_presets(run: Run, args: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """benchmarks/sampler.py."""
    words = [
        sys.executable,
        "benchmarks/sampler.py",
        f"--device={args.device}",
        *shlex.split(args.sampler_flags),
    ]
    return json.loads(run.command("sampler", words, seconds)[1])


def gpu_tests(run: Run, seconds: float) -> dict[str, Any]:
    """The tests that need a GPU."""
    files = sorted(
        p for p in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in p.read_text(encoding="utf-8")
    )
    words = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", *map(str, files)]
    return {"summary": run.command("pytest", words, seconds)[1]}


def machine(run: Run, device: str) -> dict[str, Any]:
    """What it runs on."""
    import torch

    found: dict[str, Any] = {"python": platform.python_version(), "torch": torch.__version__}
    found |= {"cpus": os.cpu_count(), "device": device}
    if device != "cpu":
        gpu = torch.cuda.get_device_properties(0)
        found |= {
            "gpu": gpu.name,
            "memory": gpu.total_memory,
            "capability": torch.cuda.get_device_capability(0),
        }
        if shutil.which("nvidia-smi"):
            run.start("gpu", ["nvidia-smi", f"--query-gpu={SMI}", "--format=csv,noheader", "--loop=1"])
    return found


def install(run: Run, wheels: Path, seconds: float) -> dict[str, Any]:
    """Put carried wheels where this process and all others find them."""
    site, files = run.work / "site", [str(p) for p in sorted(wheels.glob("*.whl"))]
    if not files:
        raise PartError(f"no wheel in {wheels}; run the command that pack.py printed")
    words = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
    run.command("install", [*words, "--no-cache-dir", "--upgrade", f"--target={site}", *files], seconds)
    sys.path.insert(0, str(site))
    run.env["PYTHONPATH"] = os.pathsep.join([str(site), *filter(None, [run.env.get("PYTHONPATH")])])
    return {"wheels": len(files)}


def train(run: Run, args: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """Both trainings."""
    from benchmarks.gpu import training  # imports what `install` has brought

    return training.train(run, args, seconds)


def unpack(run: Run, pack: Path, seconds: float) -> dict[str, Any]:
    """Make the pack quick to read."""
    words = [sys.executable, "benchmarks/gpu/pack.py", f"--unpack={pack}", f"--out={run.work / 'pack'}"]
    return json.loads(run.command("unpack", words, seconds)[1])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pack", type=Path, default=Path("runs/gpu-pack"), help="made by pack.py")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to install first")
    parser.add_argument("--out", type=Path, required=True, help="folder that comes back")
    parser.add_argument("--work", type=Path, default=Path("/tmp/wsigen-gpu"), help="new folder for the rest")
    parser.add_argument("--minutes", type=float, default=9.3, help="for everything")
    parser.add_argument("--train-minutes", type=float, default=5.0, help="for both trainings together")
    parser.add_argument("--window", type=float, default=8.0, help="seconds over which speeds are measured")
    parser.add_argument("--patience", type=float, default=1.0, help="factor of all parts' limits")
    parser.add_argument("--model", default="default", help="to begin with")
    parser.add_argument("--upscaler", type=Path, default=Path("configs/upscaler.yaml"))
    parser.add_argument("--denoiser", type=Path, default=Path("benchmarks/gpu/denoiser.yaml"))
    parser.add_argument("--train-flags", default="--val_images=16", help="for both trainings")
    parser.add_argument(
        "--slides", nargs="*", default=["16384:5", "65536:7"], help="SIZE:STAGES, H&E and pair"
    )
    parser.add_argument("--preset", default="one-step")
    parser.add_argument("--sampler-flags", default="--presets paper fast")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--skip", nargs="*", default=[], help="of train, he, pair, sampler, tests")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """All parts, one after the other."""
    args = _parser().parse_args(argv)
    if args.work.exists():
        raise SystemExit(f"--work {args.work} exists already; remove it, or choose another")
    env = {"PYTHONUNBUFFERED": "1", "OPENCV_FOR_THREADS_NUM": "1", "TQDM_MININTERVAL": "5"}
    env |= {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"} if args.device == "cpu" else {}
    run = Run(args.out.absolute(), args.work.absolute(), args.minutes, env)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    slow = args.patience
    try:
        if args.wheels is not None:
            run.part("install", 60 * slow, lambda s: install(run, args.wheels, s))
        run.part("machine", 30 * slow, lambda s: machine(run, args.device))
        if "train" not in args.skip:
            unpacked = run.part("unpack", 60 * slow, lambda s: unpack(run, args.pack.absolute(), s))
            if unpacked:
                run.part("train", 60 * args.train_minutes + 60 * slow, lambda s: train(run, args, s))
        for slide in () if "he" in args.skip else args.slides:
            run.part(f"he {slide}", 90 * slow, lambda s, slide=slide: sample(run, args, slide, False, s))
        if "tests" not in args.skip:
            run.part("tests", 60 * slow, lambda s: gpu_tests(run, s))
        for slide in () if "pair" in args.skip else args.slides:
            run.part(f"pair {slide}", 120 * slow, lambda s, slide=slide: sample(run, args, slide, True, s))
        if "sampler" not in args.skip:
            run.part("sampler", 90 * slow, lambda s: compare_presets(run, args, s))
    finally:
        run.close()
        run.bring_back()
    sys.stdout.write(json.dumps(run.results) + "\n")


if __name__ == "__main__":
    main()
