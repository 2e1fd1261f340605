"""Load networks, run them in a given precision, and warn where they were not trained."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from wsigen.diffusion.step import DenoiserFunction
from wsigen.nn.snapshot import resolve, weights_hash
from wsigen.pipeline.outputs import HEOutput
from wsigen.sampling.spec import UpscaleSpec, diffused
from wsigen.sampling.upscale import UpscalerFunction
from wsigen.stain.stainer import load_stainer, resolve_stainer
from wsigen.stain.style.weights import load_style

if TYPE_CHECKING:  # imports diffusers, which stainers do without
    from wsigen.nn.model import Model
    from wsigen.stain.networks.generator import Generator
    from wsigen.stain.style.network import StyleModel

_FAR = 1.2

log = logging.getLogger(__name__)

Loaded = TypeVar("Loaded")


class Networks:
    """Load networks by name and keep them, so that several runs share them.

    Memory: every network that was loaded, as long as this object lives.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[object, ...], Any] = {}

    def model(
        self,
        name: str | Path,
        upscaler: str | Path | None = None,
        device: torch.device | str = "cpu",
        *,
        upscaled: bool = True,
    ) -> Model:
        """Return a denoiser and perhaps an upscaler, see `wsigen.nn.model.load_model`."""
        from wsigen.nn.model import load_model

        key = ("model", str(name), str(upscaler), str(device), upscaled)
        return self._keep(key, lambda: load_model(name, upscaler, device, upscaled=upscaled))

    def stainer(
        self, name: str, device: torch.device, dtype: torch.dtype, *, copy: int = 0
    ) -> tuple[Generator, str]:
        """Return a generator and the hash of its weights, see `wsigen.stain.stainer.load_stainer`.

        Args:
            name: a bundled marker, a snapshot folder or a hub id.
            device: where to put it.
            dtype: that it will run in, since translators convert its weights in place.
            copy: tells generators of the same name in one run apart, since each keeps its own statistics.
        """
        key = ("stainer", name, str(device), dtype, copy)
        return self._keep(key, lambda: (load_stainer(name, device), weights_hash(resolve_stainer(name))))

    def style(self, name: str, device: torch.device) -> tuple[StyleModel, str]:
        """Return a style model and the hash of its weights, see `wsigen.stain.style.weights.load_style`."""
        key = ("style", name, str(device))
        return self._keep(key, lambda: (load_style(name, device), weights_hash(resolve(name))))

    def _keep(self, key: tuple[object, ...], load: Callable[[], Loaded]) -> Loaded:
        if key not in self._kept:
            self._kept[key] = load()
        return self._kept[key]


class InPrecision:
    """A denoiser whose network runs in a given precision; in and out are float32.

    Args:
        denoiser: D(x; sigma, mpp).
        dtype: of the network's arithmetic.
    """

    def __init__(self, denoiser: DenoiserFunction, dtype: torch.dtype) -> None:
        self.denoiser, self.dtype = denoiser, dtype

    def __call__(self, x: Tensor, sigma: Tensor, mpp: Tensor) -> Tensor:
        """D_x of (b, 3, h, w) images at noise levels (b,) and µm/px (b,)."""
        if self.dtype == torch.float32:
            return self.denoiser(x, sigma, mpp)
        with torch.autocast(x.device.type, self.dtype):
            return self.denoiser(x, sigma, mpp)


class UpscalerInPrecision:
    """An upscaler whose network runs in a given precision; in and out are float32.

    Args:
        upscaler: G(y, z; µm/px).
        dtype: of the network's arithmetic.
    """

    def __init__(self, upscaler: UpscalerFunction, dtype: torch.dtype) -> None:
        self.upscaler, self.dtype = upscaler, dtype
        self.k, self.noise_channels = upscaler.k, upscaler.noise_channels
        self.stride, self.radius = upscaler.stride, upscaler.radius

    def __call__(self, y: Tensor, z: Tensor, mpp: Tensor) -> Tensor:
        """The next stage from (b, 3, h, w) guides, (b, n, h, w) noise and (1,) µm/px."""
        if self.dtype == torch.float32:
            return self.upscaler(y, z, mpp)
        with torch.autocast(y.device.type, self.dtype):
            return self.upscaler(y, z, mpp)


def warn_of_untrained(slides: Sequence[HEOutput], model: Model) -> None:
    """Warn of patch sizes and µm/px of slides' stages that their network was not trained at."""
    specs = [spec for he in slides for spec in he.specs]
    sampled = diffused(specs)
    trained = model.denoiser.config["patch_sizes"]
    for patch in sorted({side for spec in sampled for side in spec.patch.sides} - set(trained)):
        seen = ", ".join(map(str, trained))
        log.warning("patch size %d px was not used in training (%s px); quality may be lower", patch, seen)
    _warn_of_stages("the denoiser", [s.mpp for s in sampled], model.denoiser.config["mpp_range"])
    upscaled = [spec.mpp for spec in specs if isinstance(spec, UpscaleSpec)]
    if upscaled and model.upscaler:
        _warn_of_stages("the upscaler", upscaled, model.upscaler.config["mpp_range"])


def _warn_of_stages(network: str, scales: Sequence[float], trained: Sequence[float]) -> None:
    low, high = trained
    if scales and (min(scales) < low * 0.99 or max(scales) > high * 1.01):
        log.warning(
            "%s makes stages of %g to %g µm/px and was trained at %g to %g; quality may be lower outside",
            network,
            max(scales),
            min(scales),
            low,
            high,
        )


def warn_of_scale(stainer: str, config: Any, mpp: float) -> None:
    """Warn where a slide's µm/px is more than 20 % outside those that a stainer was trained at.

    Args:
        stainer: its name.
        config: of its network.
        mpp: µm/px of the slide.
    """
    low, high = config["mpp_range"] or (config["mpp"],) * 2
    if low is not None and not low / _FAR <= mpp <= high * _FAR:
        seen = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        log.warning(
            "the slide has %g µm/px and stainer %s was trained at %s; quality may be lower",
            mpp,
            stainer,
            seen,
        )
