"""Made-up slides are what an evaluation needs, and what is printed of it is true."""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from openslide import OpenSlide

from benchmarks import evaluate as benchmark
from wsigen.geometry import Size


def asked(patches: int = 2000, patch: int = 512, mpp: str = "0.5,1,4,16") -> argparse.Namespace:
    return argparse.Namespace(patches=patches, patch=patch, mpp=mpp)


@pytest.mark.parametrize(
    ("size", "patches", "slides"),
    [
        (16384, 2000, 4),  # 63² + 31² + 7² places on each: room enough in any four
        (4096, 2000, 15),  # 15² + 7² places: 4,000 / 274 slides; the one at 4 µm/px is of too few to count
        (4096, 400, 4),
    ],
)
def test_slides_have_room_for_the_patches(size: int, patches: int, slides: int) -> None:
    assert benchmark.slides_needed(asked(patches), size) == slides


def test_slides_that_are_too_small_for_a_patch_are_refused() -> None:
    with pytest.raises(SystemExit, match="512 px are wider than slides of 400 px"):
        benchmark.slides_needed(asked(), 400)


def test_tissue_has_a_margin_of_glass_and_differs_everywhere() -> None:
    image = np.concatenate(list(benchmark.bands(1500, seed=3)))
    assert image.shape == (1500, 1500, 3)
    assert image.dtype == np.uint8
    assert (image[:20].mean(), image[:, -20:].mean()) == pytest.approx((243, 243), abs=2)
    middle = image[400:1100, 400:1100].astype(float)
    assert middle.mean() < 210
    assert np.abs(np.diff(middle, axis=0)).mean() > 2
    quarters = [middle[y : y + 350, x : x + 350] for y in (0, 350) for x in (0, 350)]
    assert all(np.abs(quarters[0] - q).mean() > 5 for q in quarters[1:])


def test_slides_follow_from_their_seed(tmp_path: Path) -> None:
    first, again, other = (np.concatenate(list(benchmark.bands(256, seed))) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert np.abs(first.astype(float) - other).mean() > 5
    path = tmp_path / "new" / "a_HE.ome.tif"
    benchmark.make_slide(path, 300, seed=1)
    made = path.stat()
    benchmark.make_slide(path, 300, seed=1)
    assert path.stat() == made  # it is there already
    assert sorted(p.name for p in path.parent.iterdir()) == [f"a_HE.{s}" for s in ("jpg", "json", "ome.tif")]
    with OpenSlide(path) as slide:
        assert (*slide.dimensions, float(slide.properties["openslide.mpp-x"])) == (300, 300, 0.5)


def test_cells_are_cut_off_at_the_edge() -> None:
    texture = np.full((64, 64, 3), 100, np.uint8)
    coarse = np.zeros((64, 64, 3), np.float32)
    coarse[..., 0] = 1
    rng = np.random.default_rng(0)
    last = benchmark.cell(texture, coarse, rng, 100, 64, 0)
    assert Size(*last.shape[:2]) == Size(36, 64)
    assert (last == 100).all()
    glass = benchmark.cell(texture, 0 * coarse, rng, 100, 0, 0)
    assert (glass == benchmark.GLASS).all()


def test_stages_are_what_the_bar_says(capsys: pytest.CaptureFixture[str]) -> None:
    reader, writer = os.pipe()

    def work() -> None:
        with os.fdopen(writer, "wb", buffering=0) as out:
            out.write(b"\r  0%|     | 0/4")
            time.sleep(0.2)
            out.write(b"\rlooking:  0%|     | 0/4\rlook")
            time.sleep(0.1)
            out.write(b"ing:  50%|###  | 2/4\rcomparing: 50%|### | 2/4")
            time.sleep(0.5)
            out.write(b"\rlooking: 100%|####| 4/4\n")
            out.write("µm/px: 3 are left out\n".encode())

    begun = time.perf_counter()
    thread = threading.Thread(target=work)
    thread.start()
    with os.fdopen(reader, "rb", buffering=0) as stream:
        stages = benchmark.timed(stream, begun)
    thread.join()
    assert list(stages) == ["start", "looking", "comparing"]
    assert 0.25 < stages["comparing"] < 5  # begins when its bar is there, not when the next one follows
    assert sum(stages.values()) <= time.perf_counter() - begun
    assert capsys.readouterr().err == "µm/px: 3 are left out\n"


def test_evaluations_of_a_small_size(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    argv = ["--sizes", "384", "--patches", "16", "--patch", "64", "--mpp", "0.5", "--workers", "1"]
    result = benchmark.main([*argv, "--keep", str(tmp_path)])
    assert json.loads(capfd.readouterr().out.splitlines()[-1]) == result
    [found] = result["evaluations"]
    assert result["workers"] == 1
    assert found["slides"] == {"generated": 4, "real": 4}
    assert (found["size"], found["patches_a_side"]) == (384, {"0.5": 16})
    assert 2**28 < found["peak_rss_bytes"] < 2**32
    assert found["cpu_seconds"] > 1
    assert sum(found["stages"].values()) == pytest.approx(found["seconds"], abs=2)
    assert len(found["stages"]) > 3


def test_slides_of_ones_own_come_in_two_sides(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        benchmark.main(["--real", "slides"])
    assert "--generated and --real are given together" in capsys.readouterr().err
