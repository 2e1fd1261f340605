"""Device, precision and allocator of this machine."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

from wsigen.errors import InvalidValueError
from wsigen.synthesis import runtime
from wsigen.synthesis.runtime import choose_batch_size, choose_device, choose_dtype, keep_freed_memory

FAULTS = """
import resource
import numpy as np
from wsigen.synthesis.runtime import keep_freed_memory
assert keep_freed_memory()
def touch():
    np.empty(2**26, np.uint8)[::4096] = 1
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_freed_memory_is_used_again_without_asking_the_system():
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1000, "64 MiB are 16384 pages, each time"


def test_other_allocators_are_left_alone(monkeypatch):
    monkeypatch.setattr(runtime.platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(runtime.ctypes, "CDLL", lambda _: pytest.fail("must not be touched"))
    assert not keep_freed_memory()


def test_an_older_allocator_gets_what_it_takes(monkeypatch):
    asked = []

    class Old:
        def mallopt(self, setting, value):
            asked.append((setting, value))
            return int(setting == -1 or value <= 2**25)

    monkeypatch.setattr(runtime.platform, "libc_ver", lambda: ("glibc", "2.31"))
    monkeypatch.setattr(runtime.ctypes, "CDLL", lambda _: Old())
    assert keep_freed_memory()
    assert asked == [(-3, 2**29), (-3, 2**25), (-1, 2**30)]


def test_precision_and_batch():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert choose_dtype("float32", cpu) == torch.float32
    assert choose_dtype("bfloat16", cpu) == torch.bfloat16
    assert choose_batch_size(7, 128, cpu) == 7
    assert choose_batch_size("auto", 128, cpu) == 16
    assert choose_batch_size("auto", 512, cuda) == 64
    assert choose_batch_size("auto", 4096, cpu) == 1


def test_a_device_that_is_not_there():
    assert choose_device("cpu").type == "cpu"
    for name in ("toaster", "cuda:99", "meta"):
        with pytest.raises(InvalidValueError, match="--device"):
            choose_device(name)
