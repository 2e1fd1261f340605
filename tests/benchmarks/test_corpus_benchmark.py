"""The page of the benchmark of corpora."""

from __future__ import annotations

import argparse
import sys

import benchmarks.corpus as benchmark


def test_the_page_states_seconds_speed_up_and_the_machine(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["corpus.py", "--count", "4", "--note", "Both are one core."])
    row = {"engine": "local", "workers": 2, "killed": False, "seconds": 10.5, "speed_up": 1.9, "same": True}
    result = {"slides": 4, "size": 128, "stages": 2, "cpus": 2, "load": 1.5}
    rows = [row, {**row, "engine": "ray", "killed": True, "same": False}]
    page = benchmark.page(
        {**result, "rows": rows}, argparse.Namespace(stain="SYN", note="Both are one core.")
    )
    assert page.startswith(
        "# Corpora with several workers\n\n4 pairs of H&E and IHC (SYN) of 128² px, 2 upscalings"
    )
    assert "| local | 2 | 10.5 | 1.9 | equal |\n| ray | 2, one killed | 10.5 | 1.9 | differ |\n" in page
    assert "Machine: 2 CPUs, load average 1.5 when the benchmark began" in page
    assert page.endswith("Command: `python benchmarks/corpus.py --count 4`\n")
