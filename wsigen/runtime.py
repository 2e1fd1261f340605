"""What this machine offers a run: CPUs, memory, device, precision. The one place that asks for them.

torch is imported where it is used, so that packages that read and write slides stay free of it.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
from pathlib import Path
from typing import TYPE_CHECKING

from wsigen.errors import InvalidValueError

if TYPE_CHECKING:
    import torch

# Patches of 128 px per network call that fill the device without using much memory.
_CPU_BATCH, _GPU_BATCH = 16, 1024

# glibc's numbers of its settings (malloc.h), and what they are set to, in bytes.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT, _LARGEST, _LARGEST_BEFORE_2_35 = 2**30, 2**29, 2**25

_CGROUP = Path("/sys/fs/cgroup")
_BYTES = re.compile(r"\s*(\d+(?:\.\d+)?(?:E\d+)?)\s*([KMGT]?)(I?)B?\s*", re.ASCII)


def usable_cpus(cgroup: Path = _CGROUP) -> int:
    """Return the number of CPUs that this process may use: its affinity, or its cgroup's quota if lower.

    Args:
        cgroup: folder of the cgroup file system.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cpu_quota(cgroup)
    return allowed if quota is None else max(1, min(allowed, int(quota)))


def _cpu_quota(cgroup: Path) -> float | None:
    """CPUs' worth of time that the container may use; None without a limit or a cgroup."""
    try:
        if (cgroup / "cpu.max").is_file():  # version 2: "200000 100000", or "max 100000"
            quota, period = (cgroup / "cpu.max").read_text().split()
        else:  # version 1, where no limit is -1
            quota, period = ((cgroup / "cpu" / f"cpu.cfs_{n}_us").read_text() for n in ("quota", "period"))
        cpus = float(quota) / float(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
    return cpus if cpus > 0 else None


def parse_bytes(text: str, flag: str = "--memory") -> int:
    """Return the number of bytes in a string such as "8GiB", "500MB" or "1e9".

    Args:
        text: a number and a unit; K, M, G and T are powers of 1000, Ki, Mi, Gi and Ti powers of 1024.
        flag: that it was given to, for the error.

    Raises:
        InvalidValueError: it is not a positive amount.
    """
    match = _BYTES.fullmatch(text.upper())
    if not match or (match[3] and not match[2]) or float(match[1]) <= 0:
        raise InvalidValueError(f"{flag} must be an amount such as 8GiB or 500MB, got {text!r}")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** " KMGT".index(match[2] or " "))


def format_bytes(n: float) -> str:
    """Return an amount of memory in the largest unit of which it has one, such as "1.5 GiB"."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if n >= size:
            return f"{n / size:.1f} {unit}"
    return f"{n / 2**10:.0f} KiB"


def memory_flag(n: int) -> str:
    """Return an amount of memory as `parse_bytes` reads it, rounded up to a quarter of a GiB: "1.25GiB"."""
    return f"{-(-n // 2**28) / 4:g}GiB"


def keep_freed_memory(largest: int = _LARGEST) -> bool:
    """Let this process reuse memory that it has freed, instead of returning it to the system.

    A network on the CPU frees and allocates the same buffers with every call. glibc maps those above 32 MiB
    afresh each time, and the kernel fills them with zeros, page by page: up to half of the time of a wide
    generator. Larger buffers than a limit, such as a canvas, are still returned: once smaller ones lie in the
    holes that they leave, they need new memory each time.

    Args:
        largest: bytes of the largest buffer to keep, 512 MiB at most.

    Returns:
        Whether the allocator took the settings; other systems' allocators are left alone.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    limits = (min(largest, limit) for limit in (_LARGEST, _LARGEST_BEFORE_2_35))
    return any(mallopt(_M_MMAP_THRESHOLD, limit) for limit in limits) and bool(
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
    )


def return_freed_memory() -> None:
    """Return memory that this process has freed to the system, whatever `keep_freed_memory` says.

    Before work whose buffers differ in size from those freed: holes that they do not fit into would be held
    beside them. Each page that is used again costs a fault, so this is for work of a second or more.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def choose_device(name: str, *, mps: bool = True) -> torch.device:
    """Return the device of that name.

    Args:
        name: "cpu", "cuda", "cuda:1" or "mps"; "auto" prefers CUDA, then MPS, then the CPU.
        mps: whether "auto" may choose MPS, which has no float64.

    Raises:
        InvalidValueError: this machine has no such device.
    """
    import torch

    if name == "auto":
        found = {"cuda": torch.cuda.is_available(), "mps": mps and torch.backends.mps.is_available()}
        return torch.device(next((kind for kind, there in found.items() if there), "cpu"))
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
    """Return the precision of networks; "auto" is bfloat16 where the hardware multiplies it, else float32."""
    import torch

    if name == "auto":
        return torch.bfloat16 if _multiplies_bfloat16(device) else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def _multiplies_bfloat16(device: torch.device) -> bool:
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return (
        device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def choose_batch_size(asked: int | str, patch: int, device: torch.device) -> int:
    """Return patches of ``patch`` px per network call: as asked, or for "auto" a good load for the device."""
    if asked != "auto":
        return int(asked)
    at_128 = _GPU_BATCH if device.type == "cuda" else _CPU_BATCH
    return max(1, at_128 * 128**2 // patch**2)
