"""Presets: how a slide is sampled. The published algorithm and the fast one differ in these values only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml

from wsigen.diffusion.schedule import karras_sigmas, relax_index
from wsigen.diffusion.solvers import solver_by_name
from wsigen.errors import InvalidValueError
from wsigen.geometry import Size
from wsigen.sampling.pixels import SkipRule
from wsigen.sampling.shift import ShiftPlan

_FOLDER = resources.files("wsigen") / "config" / "presets"

HISTORY_DTYPES = {"float32": torch.float32, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Solver and noise levels of the base image, stage 0.

    Args:
        solver: "heun", "euler" or "dpmpp_2m".
        steps: solver steps N.
        sigma_min: last noise level before 0.
        sigma_max: first noise level.
        rho: concentration of noise levels at the low end (Karras et al. 2022, eq. 5).
        patch: side of the patches that the denoiser sees; null: all of stage 0. A larger stage 0 is a canvas
            whose patch grid moves as in guided stages.
    """

    solver: str = "heun"
    steps: int = 40
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    patch: int | None = None

    def __post_init__(self) -> None:
        solver_by_name(self.solver)
        self.sigmas()
        if self.patch is not None and self.patch < 1:
            raise InvalidValueError(f"patch must be at least 1, or null for all of stage 0, got {self.patch}")

    def sigmas(self) -> tuple[float, ...]:
        """Return the steps + 1 noise levels."""
        return karras_sigmas(self.steps, sigma_min=self.sigma_min, sigma_max=self.sigma_max, rho=self.rho)

    def patch_of(self, first: Size) -> Size:
        """Return the size of patches for a stage 0 of size ``first``."""
        return first if self.patch is None else Size(*(min(self.patch, side) for side in first.sides))


@dataclass(frozen=True, kw_only=True)
class GuidedConfig(ScheduleConfig):
    """Solver, noise levels, guide, patch grid and background skip of the diffused stages after stage 0.

    Args:
        sigma_start: noise level of a start from A†y + sigma_start·n; null: start from sigma_max·n.
        relax_step: first step at which the guide is no longer enforced; or
        relax_sigma: noise level down to which it is enforced.
        shift: how the patch grid moves: "none", "half", "random" or "drift".
        drift: of shift "drift": rows by which the grid moves up per step, as a fraction of the patch. The
            band of rows alive is about steps · drift · patch + patch.
        halo: pixels around a patch that are denoised and not kept; a multiple of k.
        halo_steps: number of last steps with a halo.
        background_skip: use the guide, without network, for patches whose guide shows only background.
        skip_tolerance: largest difference of a background pixel to the background colour, of 255.
        skip_margin: guide pixels around a patch that must be background as well.
        history_dtype: of the solver's history between steps, "float32" or "float16".
    """

    sigma_start: float | None = None
    relax_step: int | None = None
    relax_sigma: float | None = None
    shift: str = "random"
    drift: float = 0.125
    halo: int = 0
    halo_steps: int = 0
    background_skip: bool = False
    skip_tolerance: int = 8
    skip_margin: int = 8
    history_dtype: str = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.relax()
        self.shifts()
        self.skip()
        if self.history_dtype not in HISTORY_DTYPES:
            raise InvalidValueError(
                f"history_dtype must be one of {', '.join(HISTORY_DTYPES)}, got {self.history_dtype!r}"
            )

    def sigmas(self) -> tuple[float, ...]:
        """Return the steps + 1 noise levels, from sigma_start if that is given."""
        first = self.sigma_max if self.sigma_start is None else self.sigma_start
        return karras_sigmas(self.steps, sigma_min=self.sigma_min, sigma_max=first, rho=self.rho)

    def relax(self) -> int:
        """Return the first step at which the guide is no longer enforced."""
        return relax_index(self.sigmas(), relax_step=self.relax_step, relax_sigma=self.relax_sigma)

    def shifts(self) -> ShiftPlan:
        """Return how the patch grid moves."""
        return ShiftPlan(mode=self.shift, drift=self.drift, halo=self.halo, halo_steps=self.halo_steps)

    def skip(self) -> SkipRule | None:
        """Return which patches need no network; None if all do."""
        rule = SkipRule(tolerance=self.skip_tolerance, margin=self.skip_margin)
        return rule if self.background_skip else None


@dataclass(frozen=True, kw_only=True)
class UpscaledConfig:
    """Which stages the upscaler makes, in one evaluation each, and what it skips.

    Args:
        from_mpp: the upscaler makes stages of this µm/px and finer, except stage 0; null for none, infinity
            for all.
        background_skip: use the bilinear guide, without network, where the guide shows only background.
        skip_tolerance: largest difference of a background pixel to the background colour, of 255.
        skip_margin: guide pixels around skipped cells that must be background as well.
    """

    from_mpp: float | None = None
    background_skip: bool = True
    skip_tolerance: int = 8
    skip_margin: int = 8

    def __post_init__(self) -> None:
        if self.from_mpp is not None and not self.from_mpp > 0:
            raise InvalidValueError(
                f"from_mpp must be a positive number of µm/px, .inf for all stages or null for none, got "
                f"{self.from_mpp}"
            )
        self.skip()

    def makes(self, stage: int, mpp: float) -> bool:
        """Return whether the upscaler makes a stage."""
        return stage > 0 and self.from_mpp is not None and mpp <= self.from_mpp * (1 + 1e-9)

    def skip(self) -> SkipRule | None:
        """Return which cells need no network; None if all do."""
        rule = SkipRule(tolerance=self.skip_tolerance, margin=self.skip_margin)
        return rule if self.background_skip else None


def _guided_default() -> GuidedConfig:
    return GuidedConfig(relax_step=28)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """How a slide is sampled. The default is the published algorithm.

    Args:
        base: stage 0.
        guided: diffused stages after stage 0.
        upscaler: upscaled stages.
    """

    base: ScheduleConfig = field(default_factory=ScheduleConfig)
    guided: GuidedConfig = field(default_factory=_guided_default)
    upscaler: UpscaledConfig = field(default_factory=UpscaledConfig)

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Return plain values, for provenance; the inverse of `preset_from_dict`."""
        values = asdict(self)
        if self.upscaler.from_mpp == math.inf:
            values["upscaler"]["from_mpp"] = "inf"  # JSON has no infinity
        return values


Section = TypeVar("Section", ScheduleConfig, GuidedConfig, UpscaledConfig)


def preset_from_dict(values: Mapping[str, Any]) -> Preset:
    """Make a preset from the content of a YAML file.

    Args:
        values: ``{"base": {…}, "guided": {…}, "upscaler": {…}}``; missing keys keep their defaults.

    Raises:
        InvalidValueError: an unknown key or invalid value, which it names.
    """
    _check_keys(values, ("base", "guided", "upscaler"), "")
    guided = values["guided"] or {} if "guided" in values else {"relax_step": Preset().guided.relax_step}
    return Preset(
        base=_section(ScheduleConfig, values.get("base") or {}, "base"),
        guided=_section(GuidedConfig, guided, "guided"),
        upscaler=_section(UpscaledConfig, values.get("upscaler") or {}, "upscaler"),
    )


def _section(config: type[Section], values: Any, name: str) -> Section:
    if not isinstance(values, Mapping):
        raise InvalidValueError(f"{name} must hold keys and values, got {values!r}")
    _check_keys(values, tuple(f.name for f in fields(config)), f"{name}.")
    try:
        # Infinity is "inf" in JSON, which has no number for it, and in YAML without the dot.
        plain: dict[str, Any] = {k: math.inf if v == "inf" else v for k, v in values.items()}
        return config(**plain)
    except TypeError as error:
        raise InvalidValueError(f"{name}: a value has the wrong type ({error})") from error
    except InvalidValueError as error:
        raise InvalidValueError(f"{name}: {error}") from error


def _check_keys(values: Mapping[str, Any], known: tuple[str, ...], prefix: str) -> None:
    unknown = [key for key in values if key not in known]
    if unknown:
        names = ", ".join(f"{prefix}{key}" for key in unknown)
        raise InvalidValueError(f"unknown preset key {names}; expected one of {', '.join(known)}")


def preset_names() -> list[str]:
    """Return the names of the presets that come with the package."""
    return sorted(Path(file.name).stem for file in _FOLDER.iterdir() if file.name.endswith(".yaml"))


def load_preset(name_or_path: str) -> Preset:
    """Load a preset by its name, or from a YAML file.

    Raises:
        InvalidValueError: there is no such preset, or it holds unknown keys or values.
    """
    names, path = preset_names(), Path(name_or_path)
    if name_or_path not in names and not path.is_file():
        raise InvalidValueError(
            f"--preset must be one of {', '.join(names)}, or a YAML file, got {name_or_path!r}"
        )
    try:
        file = _FOLDER / f"{name_or_path}.yaml" if name_or_path in names else path
        values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidValueError(
            f"--preset {path} cannot be read ({error}); give a YAML file in UTF-8"
        ) from error
    except yaml.YAMLError as error:
        raise InvalidValueError(
            f"--preset {path} is not valid YAML: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(values, dict):
        raise InvalidValueError(
            f"--preset {path} must hold the keys base, guided and upscaler, got {values!r}"
        )
    return preset_from_dict(values)
