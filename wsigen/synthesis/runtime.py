"""Networks that run in a given precision."""

from __future__ import annotations

import torch
from torch import Tensor

from wsigen.diffusion.step import DenoiserFunction
from wsigen.sampling.upscale import UpscalerFunction


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
