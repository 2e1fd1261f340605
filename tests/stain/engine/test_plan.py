"""Plans say beforehand what a translation then holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.stain.translations import Blur, OneNorm, generator
from wsigen.errors import InvalidValueError
from wsigen.geometry import Size
from wsigen.stain.engine.plan import (
    activation_bytes,
    norm_channels,
    padded_size,
    plan_translation,
    weight_bytes,
)
from wsigen.stain.engine.render import GPU_LOAD
from wsigen.stain.engine.stream import Norm, StreamTranslator
from wsigen.stain.networks.generator import Generator


def published(family: str = "cut") -> Generator:
    with torch.device("meta"):
        return Generator(family=family)


@pytest.mark.parametrize("family", ["cut", "cyclegan", "urust"])
@pytest.mark.parametrize("norm", ["dn", "kin", "tin", "in"])
def test_a_slide_65536_px_wide_takes_less_than_4_gib(family, norm):
    plan = plan_translation(
        Size(65536, 65536), [published(family)], norm=Norm.parse(norm), background_cell=16
    )
    assert plan.host_bytes < 4 << 30
    assert plan.tile == 1024
    taller = plan_translation(Size(4 * 65536, 65536), [published(family)], norm=Norm.parse(norm))
    assert taller.rows_alive == plan.rows_alive
    assert taller.host_bytes < plan.host_bytes  # without the map of glass


def test_sparse_statistics_hold_more_rows_and_cost_less():
    dense, sparse = (
        plan_translation(Size(65536, 65536), [published()], norm=Norm(), pitch=pitch) for pitch in (512, 2048)
    )
    assert sparse.rows_alive > dense.rows_alive
    assert sparse.host_bytes < 4 << 30
    assert (dense.patches, sparse.patches) == (128 * 128, 32 * 32)
    rendered = plan_translation(Size(65536, 65536), [published()], norm=Norm("tin")).network_pixels
    assert dense.network_pixels - rendered == 65536**2
    assert sparse.network_pixels - rendered == 65536**2 / 16


def test_numbers_by_hand():
    plan = plan_translation(Size(1024, 2048), [OneNorm(), OneNorm()], norm=Norm(), tile=512)
    assert (plan.tiles, plan.patches) == (2 * 8, 2 * 8)
    assert plan.network_pixels == 2 * 2 * 1024 * 2048  # no halo
    assert plan.rows_alive == 1024
    network = plan.device_bytes
    assert plan.host_bytes == network + 3 * 2048 * (1024 + 2 * 512) + 40 * 512**2
    on_gpu = plan_translation(
        Size(1024, 2048), [OneNorm(), OneNorm()], norm=Norm(), tile=512, device=torch.device("cuda")
    )
    assert on_gpu.host_bytes == 3 * 2048 * (1024 + 2 * 512) + 12 * GPU_LOAD
    assert on_gpu.device_bytes > network  # 32 patches at once instead of one


@pytest.mark.parametrize("norm", ["dn", "kin-5", "tin", "in"])
def test_planned_rows_are_those_that_are_held(norm):
    nets, size = [generator(), generator("cyclegan", blocks=2)], Size(1500, 700)
    plan = plan_translation(size, nets, norm=Norm.parse(norm), tile=128, pitch=128)
    constant = [[], []] if norm == "tin" else None
    stream = StreamTranslator(nets, size, norm=Norm.parse(norm), tile=128, pitch=128, constant=constant)
    assert stream.rows_alive == plan.rows_alive


def test_the_tile_is_as_large_as_memory_allows():
    slide, net = Size(20000, 20000), published()
    tiles = [plan_translation(slide, [net], norm=Norm(), memory=gib << 28).tile for gib in (3, 5, 8, 16)]
    assert tiles == sorted(tiles)
    assert tiles[0] < tiles[-1] == 1024
    assert plan_translation(slide, [net], norm=Norm(), device=torch.device("cuda")).tile == 2048
    assert plan_translation(slide, [net], norm=Norm(), memory=1 << 28).tile == 256


def test_a_smaller_tile_is_taken_where_its_halo_costs_little():
    size, net = Size(1536, 2048), published("urust")
    plans = {tile: plan_translation(size, [net], norm=Norm(), tile=tile) for tile in (1024, 768, 512, 256)}
    # by hand: statistics of all pixels once; tiles with 96 px around them, clipped at the edges
    assert plans[1024].network_pixels == 1536 * 2048 + (1120 + 608) * (1120 + 1120)
    assert plans[768].network_pixels == 1536 * 2048 + (864 + 864) * (864 + 960 + 608)
    assert plan_translation(size, [net], norm=Norm()) == plans[768]
    assert plans[768].network_pixels < 1.05 * plans[1024].network_pixels < plans[512].network_pixels
    assert plans[768].host_bytes < 0.7 * plans[1024].host_bytes


def test_a_stream_chooses_the_planned_tile():
    assert StreamTranslator([OneNorm()], Size(100, 100)).tile == 1024
    with pytest.raises(InvalidValueError, match=r"100 px wide takes .* tiles of 256 px, but 4 KiB are"):
        StreamTranslator([OneNorm()], Size(100, 100), memory=1 << 12)


def test_features_alive_at_once():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.narrow = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            wide = self.wide(x)
            return self.narrow(torch.relu(wide)) + wide[:, :3]

    # input excluded: 16 channels, and 16 more from the rectifier while the first ones are still needed
    assert activation_bytes(Two(), torch.float32) == pytest.approx(4 * 32 + 4 * 3, rel=0.15)
    assert activation_bytes(Two(), torch.bfloat16) == pytest.approx(2 * 32 + 2 * 3, rel=0.15)
    assert weight_bytes(Two(), torch.float32) == 4 * (3 * 16 + 16 + 16 * 3 + 3)


def test_norm_channels_of_the_published_generators():
    assert [norm_channels(published(family)) for family in ("cut", "cyclegan", "urust")] == [5248] * 3
    assert norm_channels(Blur()) == 0


def test_slides_are_padded_to_what_all_networks_take():
    class Eight(OneNorm):
        stride = 8

    assert padded_size(Size(1001, 5), [OneNorm()]) == Size(1004, 16)
    assert padded_size(Size(1001, 5), [OneNorm(), Eight()]) == Size(1008, 16)


SCRIPT = """
import json
from pathlib import Path
import numpy as np
from tests.stain.translations import generator
from wsigen.geometry import Size
from wsigen.stain.engine.stream import Norm, StreamTranslator
from wsigen.stain.engine.render import GPU_LOAD
from wsigen.stain.engine.plan import plan_translation

def status(name):
    return 1024 * int(Path("/proc/self/status").read_text().split(name + ":")[1].split()[0])

def peak(size):
    Path("/proc/self/clear_refs").write_text("5")
    stream = StreamTranslator([net], size, norm=Norm(), tile=512, pitch=256)
    for y in range(0, size.height, 128):
        for _ in stream.push(rows[:, : size.width]):
            pass
    return status("VmHWM") - before

net = generator(width=16, blocks=0)
rows = np.random.default_rng(0).integers(0, 256, (128, 640, 3), np.uint8)
before = status("VmRSS")
peak(Size(256, 64))  # loads what is loaded when it is first used
plan = plan_translation(Size(640, 640), [net], norm=Norm(), tile=512, pitch=256).host_bytes
print(json.dumps([plan, peak(Size(640, 640)), peak(Size(1280, 640))]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of memory from /proc")
def test_planned_memory_is_honest_and_does_not_grow_with_height():
    # so that freed memory leaves the process, and what is counted is what is in use
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    planned, short, tall = json.loads(run.stdout)
    loaded = 32 << 20
    assert planned / 1.5 < short < planned + loaded
    assert tall < 1.1 * short
