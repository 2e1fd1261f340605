"""What a run has to work with: device, precision, batch size."""

from __future__ import annotations

import ctypes
import platform

import torch
from torch import Tensor

from wsigen.diffusion.step import DenoiserFunction
from wsigen.errors import InvalidValueError
from wsigen.sampling.upscale import UpscalerFunction

# Patches of 128 px per network call that fill the device without using much memory.
_CPU_BATCH, _GPU_BATCH = 16, 1024

# glibc's numbers of its settings (malloc.h), and what they are set to, in bytes.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT, _LARGEST, _LARGEST_BEFORE_2_35 = 2**30, 2**29, 2**25


def keep_freed_memory() -> bool:
    """Let this process use memory again that it has freed, instead of handing it back to the system.

    A network on the CPU frees and allocates the same buffers with every call. Those above 32 MiB glibc maps
    afresh each time, and the kernel fills them with zeros, page by page: up to half of the time of a wide
    generator. Buffers above 512 MiB, such as a canvas, still go back.

    Returns:
        Whether the allocator took the settings; other systems' allocators are left alone.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    largest = mallopt(_M_MMAP_THRESHOLD, _LARGEST) or mallopt(_M_MMAP_THRESHOLD, _LARGEST_BEFORE_2_35)
    return bool(largest and mallopt(_M_TRIM_THRESHOLD, _KEPT))


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" prefers CUDA, then MPS.

    Raises:
        InvalidValueError: if this machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InvalidValueError(f"--device must be auto, cpu, cuda, cuda:N or mps, got {name!r}") from error
    missing = (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()) or (
        device.type == "mps" and not torch.backends.mps.is_available()
    )
    if missing or device.type not in ("cpu", "cuda", "mps"):
        raise InvalidValueError(f"--device {name}: there is none on this machine; use --device auto")
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Precision of the network; "auto" is bfloat16 where the hardware multiplies it, else float32."""
    if name == "auto":
        return torch.bfloat16 if _multiplies_bfloat16(device) else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return (
        device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def choose_batch_size(asked: int | str, patch: int, device: torch.device) -> int:
    """Patches per network call: as asked, or as many as make a good load for the kind of device."""
    if asked != "auto":
        return int(asked)
    at_128 = _GPU_BATCH if device.type == "cuda" else _CPU_BATCH
    return max(1, at_128 * 128**2 // patch**2)


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
