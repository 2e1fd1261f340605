"""CPUs, amounts of memory, device, precision and allocator of this machine."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

from wsigen import runtime
from wsigen.errors import InvalidValueError
from wsigen.runtime import (
    choose_batch_size,
    choose_device,
    choose_dtype,
    format_bytes,
    keep_freed_memory,
    memory_flag,
    parse_bytes,
    usable_cpus,
)

FAULTS = """
import resource
import numpy as np
from wsigen.runtime import keep_freed_memory
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


def test_a_device_without_float64_is_only_chosen_where_it_will_do(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto").type == "mps"
    assert choose_device("auto", mps=False).type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto").type == "cuda"


@pytest.mark.parametrize(
    ("quota", "cpus"),
    [("max 100000", 8), ("250000 100000", 2), ("20000 100000", 1), ("9900000 100000", 8), ("", 8)],
)
def test_cpus_are_those_of_the_affinity_and_of_the_cgroup(monkeypatch, tmp_path, quota, cpus):
    monkeypatch.setattr(runtime.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    (tmp_path / "cpu.max").write_text(quota)
    assert usable_cpus(tmp_path) == cpus


@pytest.mark.parametrize(("quota", "cpus"), [("-1", 8), ("150000", 1), ("300000", 3)])
def test_cpus_of_an_older_cgroup(monkeypatch, tmp_path, quota, cpus):
    monkeypatch.setattr(runtime.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert usable_cpus(tmp_path / "none") == 8
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert usable_cpus(tmp_path) == cpus


@pytest.mark.parametrize(
    ("text", "n"), [("8GiB", 2**33), ("500MB", 5 * 10**8), ("1e9", 10**9), (" 1.5 kib ", 1536), ("3k", 3000)]
)
def test_amounts_of_memory_as_people_write_them(text, n):
    assert parse_bytes(text) == n


@pytest.mark.parametrize("text", ["lots", "0", "-1GiB", "1.5.2GiB", "5iB", "GiB", ""])
def test_what_is_no_amount_of_memory(text):
    with pytest.raises(InvalidValueError, match="cache must be an amount such as 8GiB"):
        parse_bytes(text, "cache")


def test_amounts_of_memory_as_people_read_them():
    assert [format_bytes(n) for n in (0, 2**10, 2**20, 1.5 * 2**30)] == [
        "0 KiB",
        "1 KiB",
        "1.0 MiB",
        "1.5 GiB",
    ]


@pytest.mark.parametrize(
    ("needed", "text"), [(1, "0.25GiB"), (2**28, "0.25GiB"), (2**28 + 1, "0.5GiB"), (2**32, "4GiB")]
)
def test_amounts_that_can_be_passed_on(needed, text):
    assert memory_flag(needed) == text
    assert needed <= parse_bytes(text) < needed + 2**28
