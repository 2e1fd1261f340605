"""Seams and texture of presets in a world whose denoiser is known exactly.

    python benchmarks/gaussian_world.py

Images are Gaussian with correlation 0.95^(|dy| + |dx|), so the denoiser of a patch that sees nothing
outside it is a Wiener filter. One guided stage is sampled from the pooled truth with every preset. The
last line is one JSON object; per preset: evaluations per patch of the canvas, step8 at the last grid's
joints (1 = no seam), squared one-pixel jump there over that elsewhere (1 = no seam), and squared gradient
over that of the truth (1 = right texture).
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import Tensor

import wsigen
from wsigen.evaluation.seams import step8
from wsigen.geometry import Region, Size
from wsigen.sampling.plan import plan_stage
from wsigen.sampling.preset import GuidedConfig, Preset, preset_from_dict
from wsigen.sampling.shift import StepGrid
from wsigen.sampling.spec import Execution, diffused, stage_specs
from wsigen.sampling.stage import StageRun

PRESETS = Path(wsigen.__file__).parent / "config" / "presets"
GREY = (128, 128, 128)
DEVIATION, STAGES = 0.2, 3


def covariance(length: int, correlation: float) -> np.ndarray:
    """Of a line of pixels, for unit variance."""
    position = np.arange(length)
    return correlation ** np.abs(position[:, None] - position)


class WienerDenoiser:
    """The exact posterior mean of a patch, given its own pixels alone."""

    def __init__(self, patch: int, correlation: float) -> None:
        values, vectors = np.linalg.eigh(covariance(patch, correlation))
        self.basis = torch.tensor(vectors, dtype=torch.float32)
        self.power = torch.tensor(np.outer(values, values) * DEVIATION**2, dtype=torch.float32)

    def __call__(self, x: Tensor, sigma: Tensor, mpp: Tensor) -> Tensor:
        """The denoised estimate."""
        shrink = self.power / (self.power + sigma.view(-1, 1, 1, 1) ** 2)
        return self.basis @ (self.basis.T @ x @ self.basis * shrink) @ self.basis.T


class Rows:
    """An image to read from and to append to."""

    def __init__(self, image: np.ndarray) -> None:
        self.image = image

    @property
    def rows_done(self) -> int:
        """Rows there are."""
        return len(self.image)

    def append(self, rows: np.ndarray) -> None:
        """Take the next rows."""
        self.image = np.concatenate([self.image, rows])

    def read(self, region: Region) -> np.ndarray:
        """Pixels of a region."""
        return self.image[region.y : region.y1, region.x : region.x1]


def pixels(values: np.ndarray) -> np.ndarray:
    """From [-1, 1] to 8 bits."""
    return np.clip(np.rint((values + 1) * 127.5), 0, 255).astype(np.uint8)


def truth(extent: int, correlation: float, seed: int) -> np.ndarray:
    """A sample of the world."""
    root = np.linalg.cholesky(covariance(extent, correlation))
    white = np.random.default_rng(seed).standard_normal((3, extent, extent))
    return DEVIATION * (root @ white @ root.T).transpose(1, 2, 0)


def squared_gradient(image: np.ndarray, axis: int) -> np.ndarray:
    """Per line between two rows (axis 0) or columns (axis 1)."""
    return np.square(np.diff(image.astype(float), axis=axis)).mean(axis=(1 - axis, 2))


def jump(image: np.ndarray, grid: StepGrid) -> float:
    """Squared one-pixel jump at joints over that elsewhere."""
    there, elsewhere = [], []
    for axis, lines in enumerate((grid.rows, grid.cols)):
        gradient = squared_gradient(image, axis)
        joint = (np.arange(1, lines.extent) - lines.offset) % lines.stride == 0
        there.append(gradient[joint].mean())
        elsewhere.append(gradient[~joint].mean())
    return float(np.mean(there) / np.mean(elsewhere))


def measure(config: GuidedConfig, patch: int, correlation: float, images: int) -> dict[str, float]:
    """Figures of one preset, averaged over images."""
    denoiser, extent, rows = WienerDenoiser(patch, correlation), patch * 2**STAGES, []
    evaluations = 0.0
    for seed in range(images):
        specs = stage_specs(
            Preset(guided=config), size=Size.square(extent), stages=STAGES, k=2, mpp=1.0, seed=seed
        )
        spec = diffused(specs)[-1]
        world = truth(extent, correlation, seed)
        guide = Rows(pixels(world.reshape(extent // 2, 2, extent // 2, 2, 3).mean(axis=(1, 3))))
        sink = Rows(np.empty((0, extent, 3), np.uint8))
        StageRun(spec, denoiser, guide, sink, background=GREY, execution=Execution(threads=1)).run()
        grid = spec.grids[-1]
        scores = [
            step8(sink.image, lines.stride, phases=[lines.offset], axis=axis).ratio
            for axis, lines in enumerate((grid.rows, grid.cols))
        ]
        texture = squared_gradient(sink.image, 0).mean() / squared_gradient(pixels(world), 0).mean()
        rows.append((np.mean(scores), jump(sink.image, grid), texture))
        evaluations = plan_stage(spec).evaluations / 4**STAGES
    names = ("step8", "jump", "gradient")
    figures = dict(zip(names, np.mean(rows, axis=0).round(3).tolist(), strict=True))
    return {"evaluations": round(evaluations, 1), **figures}


def main() -> None:
    """Measure the shipped presets and what becomes of `fast` with one thing changed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--correlation", type=float, default=0.95)
    parser.add_argument("--images", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    paper, fast = (
        preset_from_dict(yaml.safe_load((PRESETS / f"{name}.yaml").read_text())).guided
        for name in ("paper", "fast")
    )
    configs = {
        "paper": paper,
        "paper without shift": replace(paper, shift="none"),
        "fast": fast,
        "fast, random shift": replace(fast, shift="random"),
        "fast, sigma_min 0.02": replace(fast, sigma_min=0.02),
        "fast, halo 4 at the last step": replace(fast, halo=4, halo_steps=1),
        "fast, Euler": replace(fast, solver="euler"),
        "fast, Heun with 5 steps": replace(fast, solver="heun", steps=5),
    }
    figures = {}
    for name, config in configs.items():
        config = replace(config, background_skip=False)
        figures[name] = measure(config, args.patch, args.correlation, args.images)
        print(f"{name:32s}", *(f"{key} {value:7.3f} " for key, value in figures[name].items()), flush=True)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
