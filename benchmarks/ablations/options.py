"""Options that the ablations share."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch

from wsigen.errors import InvalidValueError
from wsigen.runtime import choose_device, choose_dtype, keep_freed_memory

OUT = Path("docs/results/ablations")
REAL, TABLE = Path("../shared/data/he"), Path("../shared/data/SOURCES.csv")


def options(doc: str | None) -> argparse.ArgumentParser:
    """A parser with the options that every ablation has: where to compute, where to write.

    Args:
        doc: of the module; its first line says what the ablation does.
    """
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT, help="folder for the table and the figure")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto", help="auto, float32 or bfloat16: of the network")
    return parser


def add_sampling(parser: argparse.ArgumentParser, *, size: int, stages: int, seeds: int, preset: str) -> None:
    """Options of an ablation of the sampler.

    Args:
        parser: to add to.
        size: default side of the slides, px.
        stages: default number of upscalings.
        seeds: default number of slides.
        preset: default preset.
    """
    parser.add_argument("--size", type=int, default=size, help="side of the slides, patch · 2**stages")
    parser.add_argument("--stages", type=int, default=stages)
    parser.add_argument("--seeds", type=int, default=seeds, help="number of slides, with seeds 0, 1, …")
    parser.add_argument("--mpp", type=float, default=0.5, help="µm/px of the slides")
    parser.add_argument("--model", default="default")
    parser.add_argument(
        "--preset", default=preset, help="name or YAML file; what is not varied is as it says"
    )
    parser.add_argument("--batch-size", default="auto")


def add_real(parser: argparse.ArgumentParser) -> None:
    """Options of an ablation that compares with real slides."""
    parser.add_argument(
        "--real", help=f"real slides, or an index; none for no comparison; default {REAL}, if there"
    )
    parser.add_argument("--table", type=Path, help="what the real slides do not say, as for `wsigen index`")
    parser.add_argument("--features", default="weight-free", help="as for `wsigen evaluate`")


def real_paths(args: argparse.Namespace) -> tuple[Path, Path | None] | None:
    """Slides and table that were asked for; None to go without.

    Raises:
        InvalidValueError: slides that are not there.
    """
    if args.real == "none" or (args.real is None and not REAL.exists()):
        return None
    if args.real is None:
        return REAL, args.table or (TABLE if TABLE.exists() else None)
    if not Path(args.real).exists():
        raise InvalidValueError(f"--real {args.real} is not there; give slides, an index, or none")
    return Path(args.real), args.table


@dataclass(frozen=True)
class Device:
    """Where networks run, and in which precision."""

    device: torch.device
    dtype: torch.dtype

    @classmethod
    def of(cls, args: argparse.Namespace) -> Device:
        """What the options ask for."""
        keep_freed_memory()
        device = choose_device(args.device)
        return cls(device, choose_dtype(args.dtype, device))
