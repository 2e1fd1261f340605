"""How fast a training run is, and how much of it is spent waiting for data.

python benchmarks/training.py [--config configs/denoiser-cpu.yaml] [--slides PATH] [--kimg 1]

Runs the real training loop in a temporary folder, on synthetic slides unless told otherwise. The last line is
one JSON object with images_per_second and data_wait_fraction, means over the reports after the first.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.synthetic import he_image, write_tiff
from wsigen.cli.parse import parse
from wsigen.config import TrainConfig
from wsigen.training import denoiser


def main() -> None:
    """Parse the command line, measure, print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--config", default=str(Path(__file__).parents[1] / "configs" / "denoiser-cpu.yaml"))
    parser.add_argument("--slides", type=Path, help="default: slides made up for the purpose")
    parser.add_argument("--table", type=Path)
    parser.add_argument("--kimg", type=float, default=1.0)
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        slides = args.slides or _made_up(Path(folder) / "slides")
        flags = [f"--config={args.config}", f"--data.slides={slides}", f"--run_dir={folder}/run"]
        flags += [f"--data.table={args.table}"] if args.table else []
        config, _ = parse(TrainConfig, flags, prog="training.py", description="")
        config = dataclasses.replace(config, kimg=args.kimg, report_every=10, val_images=1, preview_mpp=())
        denoiser.train(config)
        lines = (Path(folder) / "run" / "stats.jsonl").read_text(encoding="utf-8").splitlines()
    reports = [r for r in map(json.loads, lines) if "loss" in r][1:]
    result = {
        key: round(float(np.mean([r[key] for r in reports])), 4)
        for key in ("images_per_second", "data_wait_fraction")
    }
    sys.stdout.write(json.dumps({"kimg": args.kimg, **result}) + "\n")


def _made_up(folder: Path) -> Path:
    folder.mkdir()
    for seed in range(4):
        write_tiff(folder / f"{seed}.tif", he_image(4096, seed=seed), 0.5, levels=4)
    return folder


if __name__ == "__main__":
    main()
