"""Plans of IHC slides: the tile that fits, the memory that suffices, the share of tissue."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.stain.models import small_generator
from wsigen.geometry import Size
from wsigen.pipeline.background import CELL
from wsigen.pipeline.outputs import Stain
from wsigen.pipeline.plan import (
    journal_bytes,
    plan_stains,
    reading_bytes,
    seconds_per_pixel,
    tissue_share,
)
from wsigen.pipeline.stainers import Rendering, Stainers
from wsigen.stain.engine.background import FAR, BackgroundMap
from wsigen.stain.normalise.norm import Norm

SIZE = Size(6000, 4096)


def stainers(count=1, **rendering):
    how = Rendering(norm=Norm(), device=torch.device("cpu"), dtype=torch.float32, **rendering)
    stain = Stain.of_marker("SYN", stainer="", stainer_hash="", norm=Norm(), pitch=512, dtype="float32")
    nets = tuple(small_generator(seed=i, width=16) for i in range(count))
    return Stainers(nets=nets, stains=(stain,) * count, rendering=how)


def test_less_memory_means_smaller_tiles_until_there_are_none():
    plenty = plan_stains(stainers(), SIZE, allowed=2**40)
    plan, tiles, allowed = plenty, [plenty.translation.tile], plenty.host_bytes
    while tiles[-1] > 256:
        plan = plan_stains(stainers(), SIZE, allowed=allowed - 1)
        tiles.append(plan.translation.tile)
        assert plan.host_bytes < allowed
        allowed = plan.host_bytes
    assert tiles == [768, 512, 256]  # with 1024 px, 3 % less of what networks see is halo
    assert plan_stains(stainers(), SIZE, allowed=0) == plan


def test_what_is_counted_beside_the_translation():
    plan = plan_stains(stainers(2, tile=512), SIZE, allowed=0, beside=10**9)
    assert plan.translation.tile == 512
    rest = plan.host_bytes - plan.translation.host_bytes
    assert rest == 10**9 + 2 * journal_bytes(4096)
    assert reading_bytes(2 * 4096) - reading_bytes(4096) >= 2 * 3 * 256 * 4096


def test_height_takes_no_memory_but_for_the_map_of_glass():
    tall, taller = (plan_stains(stainers(tile=512), Size(h, 4096), allowed=0) for h in (2**13, 2**16))
    cells = (2**16 - 2**13) // CELL * (4096 // CELL)
    assert 0 <= taller.host_bytes - tall.host_bytes <= 3 * cells


def test_share_of_tissue():
    occupied = np.zeros((64, 64), bool)
    assert tissue_share(BackgroundMap(occupied, CELL), Size(1024, 1024).region, 256) == 0
    occupied[10, 10] = True
    assert tissue_share(BackgroundMap(occupied, CELL), Size(1024, 1024).region, 256) == 1 / 16
    occupied[10, 16 - FAR] = True
    assert tissue_share(BackgroundMap(occupied, CELL), Size(1024, 1024).region, 256) == 2 / 16
    assert tissue_share(BackgroundMap(~occupied, CELL), Size(1000, 600).region, 256) == 1


def test_measured_seconds_are_those_of_a_pixel_that_a_network_sees():
    slow, fast = (seconds_per_pixel(stainers(tile=tile)) for tile in (128, 512))
    assert 1e-9 < fast < 1e-4
    assert slow == pytest.approx(fast, rel=5)


def test_norms_that_need_the_whole_slide_are_measured_too():
    one = stainers()
    tin = replace(one, rendering=replace(one.rendering, norm=Norm("tin")))
    assert seconds_per_pixel(tin) > 0
