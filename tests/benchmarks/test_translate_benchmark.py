"""Memory of a translation from file to file, by the benchmark that the docs quote."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.commands import ROOT
from tests.synthetic import he_image, write_tiff

IMPORTED = """
import wsigen.pipeline.translate
print(open("/proc/self/status").read().partition("VmRSS:")[2].split()[0])"""


def printed(*command: str) -> str:
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_three_megapixels_by_a_generator_of_width_16_take_a_third_of_a_gigabyte(tmp_path):
    slide = write_tiff(tmp_path / "he.tif", he_image(2048, seed=3, mpp=0.5), 0.5)
    flags = ("--size", "2048x1536", "--untrained", "urust-16", "--dtype", "float32")
    found = json.loads(printed("benchmarks/translate.py", "--slide", str(slide), *flags))
    assert found["size"] == [2048, 1536]
    assert found["same_size_mpp_levels"]
    assert found["peak_rss_bytes"] - 1024 * int(printed("-c", IMPORTED)) < 0.34e9, "beside torch's 0.55 GB"
