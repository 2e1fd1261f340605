import json
import multiprocessing
import random
import shutil
import signal
import time
from dataclasses import replace
from hashlib import sha256

import cv2
import numpy as np
import openslide
import pytest
import torch
from filelock import FileLock

from tests.pipeline.models import PAINT, small_job, small_run
from wsigen.data.find import find_slides
from wsigen.errors import OutputError
from wsigen.geometry import Size
from wsigen.pipeline.outputs import seam_grids


def make(he, *, progress=None, block=2048, **options):
    return small_run(he, **options).make(progress=progress, block=block)


def tall_job(out):
    """Two rows of blocks in the last stage, so that a resumed run finds one of them done."""
    return small_job(out, whole=Size(1024, 256), stages=3, preset=PAINT)


def pixels(path):
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3].astype(int)


def contents(folder):
    """Digests: pytest would compare whole files line by line."""
    return {p.name: sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir()) if p.is_file()}


def large_job(out, **changes):
    """Several rows of patches in every stage but the first."""
    return small_job(out, whole=Size.square(1024), stages=4, mpp=0.4, **changes)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Folder and files of a slide; not to be written to."""
    folder = tmp_path_factory.mktemp("large")
    (files,) = make(large_job(folder))
    return folder, files


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Folders of two slides, made without interruption in batches of 4, by their seeds; likewise."""
    folder = tmp_path_factory.mktemp("straight")
    for seed in (0, 1):
        make(small_job(folder / str(seed), seed=seed, layout="lossless"))
    return [folder / "0", folder / "1"]


def test_slide_says_what_it_is_and_opens(large):
    folder, files = large
    with openslide.OpenSlide(files.slide) as slide:
        assert slide.dimensions == (1024, 1024)
        assert slide.level_dimensions == ((1024, 1024), (512, 512))
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.4)
    facts = json.loads(files.provenance.read_text())
    assert facts["synthetic"] is True
    assert (facts["seed"], facts["stages"], facts["preset"]) == (0, 4, "quick")
    assert facts["preset_values"]["guided"]["solver"] == "dpmpp_2m"
    assert sorted(p.name for p in folder.iterdir()) == [
        "a_HE.jpg",
        "a_HE.json",
        "a_HE.ome.tif",
        "a_HE.png",
    ]
    assert large_job(folder).is_finished()
    assert not large_job(folder, seed=1).is_finished()


def test_the_overview_that_a_slide_was_made_from_lies_beside_it(large):
    folder, files = large
    overview = cv2.imread(str(folder / "a_HE.png"))[..., ::-1].astype(int)
    assert overview.shape == (64, 64, 3)
    fine = pixels(files.slide).reshape(64, 16, 64, 16, 3).mean(axis=(1, 3))
    apart = np.abs(fine - overview).mean()
    turned = np.abs(fine - overview[::-1]).mean()
    assert apart < 0.5 * turned
    assert list(find_slides(folder)) == ["a_HE.ome.tif"]  # the picture is not taken for a slide


def test_slide_says_where_its_last_patches_met(large):
    folder, files = large
    last, before = json.loads(files.provenance.read_text())["joints"]
    assert (last["name"], before["name"]) == ("patches, last step", "patches, step before it")
    spec = large_job(folder).specs[-1]
    for said, grid in ((last, spec.grids[-1]), (before, spec.grids[-2])):
        assert said["pitch"] == grid.rows.stride
        assert (said["rows"], said["cols"]) == ([grid.rows.offset], [grid.cols.offset])
        starts = [grid.rows.start(j) for j in range(1, grid.rows.count)]
        assert all(start % said["pitch"] == said["rows"][0] for start in starts)
    assert len(seam_grids(replace(spec, grids=spec.grids[-1:] * 3))) == 1


def test_schedules_give_identical_files(straight, tmp_path):
    make(small_job(tmp_path, layout="lossless"), order="steps")
    assert contents(tmp_path) == contents(straight[0])


def test_batch_size_moves_pixels_by_rounding_alone(straight, tmp_path):
    make(small_job(tmp_path, layout="lossless"), batch_size=1)
    difference = pixels(tmp_path / "a_HE.ome.tif") - pixels(straight[0] / "a_HE.ome.tif")
    assert np.abs(difference).max() <= 1


def test_seeds_make_different_slides(straight):
    first, second = (pixels(folder / "a_HE.ome.tif") for folder in straight)
    assert np.abs(first - second).mean() > 1


def test_interrupted_slide_goes_on(tmp_path):
    make(tall_job(tmp_path / "straight"), block=512)
    job = tall_job(tmp_path / "stopped")

    def stop(done):
        if done.stage == 3 and done.rows >= 512:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(job, block=512, progress=stop)
    assert not job.slide.exists()
    assert job.work.is_dir()
    seen = []
    make(job, block=512, progress=seen.append)
    assert {done.stage for done in seen} == {3}
    assert seen[0].rows >= 512
    assert contents(tmp_path / "straight") == contents(tmp_path / "stopped")
    assert not job.work.exists()


def _child(out, threads):
    torch.set_num_threads(threads)  # sums round with their number
    make(tall_job(out), block=512)


@pytest.mark.slow
def test_killed_at_ten_random_moments_gives_identical_files(tmp_path):
    start = time.perf_counter()
    make(tall_job(tmp_path / "straight"), block=512)
    whole = time.perf_counter() - start
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.pipeline.test_sample"])
    wanted, job = contents(tmp_path / "straight"), tall_job(tmp_path / "killed")
    moments, kills = random.Random(0), 0
    while kills < 10:
        child = context.Process(target=_child, args=(job.out, torch.get_num_threads()))
        child.start()
        child.join(moments.uniform(0.05, 0.6) * whole)
        child.kill()
        child.join()
        assert child.exitcode in (0, -signal.SIGKILL)
        kills += child.exitcode != 0
        if job.slide.exists():
            assert contents(job.out) == wanted
            shutil.rmtree(job.out)
    make(job, block=512)
    assert contents(job.out) == wanted


def test_existing_slide_is_kept_unless_asked(tmp_path):
    job = small_job(tmp_path, whole=Size.square(128), stages=1)
    make(job)
    before = job.slide.read_bytes()
    with pytest.raises(OutputError, match="exists already; pass --overwrite"):
        make(job)
    other = small_job(tmp_path, whole=Size.square(128), stages=1, seed=5)
    make(other, overwrite=True)
    assert job.slide.read_bytes() != before


def test_state_of_another_job_is_not_continued(straight, tmp_path):
    def stop(done):
        raise KeyboardInterrupt

    first, second = (small_job(tmp_path, seed=seed, layout="lossless") for seed in (0, 1))
    with pytest.raises(KeyboardInterrupt):
        make(first, progress=stop)
    with pytest.raises(OutputError, match="holds the state of another run"):
        make(second)
    make(second, overwrite=True)
    assert contents(tmp_path) == contents(straight[1])


def test_unfinished_state_in_another_layout_is_replaced(tmp_path):
    def stop(done):
        if done.stage == 1:
            raise KeyboardInterrupt

    job = small_job(tmp_path, whole=Size.square(128), stages=1)
    with pytest.raises(KeyboardInterrupt):
        make(job, progress=stop)
    make(replace(job, layout="lossless"), overwrite=True)
    assert replace(job, layout="lossless").is_finished()


def test_two_processes_do_not_make_the_same_slide(tmp_path):
    job = small_job(tmp_path)
    job.work.mkdir(parents=True)
    with (
        FileLock(job.work / "lock"),
        pytest.raises(OutputError, match="another process is making this slide"),
    ):
        make(job)
