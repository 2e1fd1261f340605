"""A slide and its stain in files: both or neither, each naming the other, interrupted or not."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
from dataclasses import replace

import numpy as np
import openslide
import pytest
import torch

from tests.pipeline.models import PAINT, small_job, small_net, small_run
from tests.stain.models import small_generator
from wsigen.errors import OutputError
from wsigen.geometry import Region, Size
from wsigen.pipeline.background import stage_background
from wsigen.pipeline.outputs import HEOutput
from wsigen.pipeline.stainers import Rendering, open_stainers
from wsigen.sampling.pixels import background_of
from wsigen.slide.codec import ZSTD
from wsigen.slide.journal import BlockJournal
from wsigen.stain.engine.stream import Norm
from wsigen.stain.stainer import save_stainer

SKETCH = replace(PAINT, guided=replace(PAINT.guided, steps=2))


@pytest.fixture(scope="module")
def stainers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stainers")
    save_stainer(small_generator(blocks=0, marker="SYN", mpp=0.5), folder / "SYN")
    return opened(str(folder / "SYN"))


def opened(name):
    # With patches this small the stain is no more than 400 rows behind, and has a block before the last.
    how = Rendering(norm=Norm(), pitch=128, device=torch.device("cpu"), dtype=torch.float32, tile=256)
    return open_stainers(name, None, how)


def make(job, stainers, *, progress=None, block=2048, **options):
    return small_run(job, stainers, **options).make(progress=progress, block=block)


def is_finished(job):
    return all(output.is_finished() for output in (job, *job.ihc))


def has_work(job):
    return any(output.work.exists() for output in (job, *job.ihc))


def pair_job(out, stainers, **changes):
    """A slide of 1024 px whose stain keeps its first block before the last."""
    return small_job(
        out, **{"whole": Size.square(1024), "preset": SKETCH, "stains": stainers.stains, **changes}
    )


def contents(folder):
    """Names and hashes: pytest would compare a megabyte of bytes line by line."""
    files = sorted(p for p in folder.iterdir() if p.is_file())
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def pixels(path):
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]


@pytest.fixture(scope="module")
def straight(tmp_path_factory, stainers):
    """The pair, made without interruption."""
    out = tmp_path_factory.mktemp("straight") / "out"
    make(pair_job(out, stainers, layout="lossless"), stainers, block=512)
    return out


def test_both_slides_name_each_other(straight, stainers):
    both = [f"a_{kind}.{ending}" for kind in ("HE", "IHC-SYN") for ending in ("jpg", "json", "ome.tif")]
    assert sorted(contents(straight)) == sorted([*both, "a_HE.png"])
    he, ihc = (json.loads((straight / f"a_{kind}.json").read_text()) for kind in ("HE", "IHC-SYN"))
    stain = stainers.stains[0]
    assert he["pair"] == {
        "a_IHC-SYN.ome.tif": {
            "marker": "SYN",
            "stainer": stain.stainer,
            "stainer_hash": stain.facts["stainer_hash"],
        }
    }
    assert ihc["source"]["slide"] == "a_HE.ome.tif"
    assert ihc["source"]["fingerprint"] == he["fingerprint"]
    assert (ihc["stainer_hash"], ihc["synthetic"], ihc["mpp"]) == (
        stain.facts["stainer_hash"],
        True,
        he["mpp"],
    )
    assert is_finished(pair_job(straight, stainers, layout="lossless"))


def test_the_slide_is_what_it_is_alone_and_the_stain_is_made_of_it(straight, stainers, tmp_path, monkeypatch):
    job, kept = pair_job(tmp_path, stainers, layout="lossless"), tmp_path / "kept"
    monkeypatch.setattr(HEOutput, "remove_work", lambda self: shutil.copytree(self.work, kept))
    make(replace(job, stains=()), None)
    alone = pixels(tmp_path / "a_HE.ome.tif")
    assert np.array_equal(alone, pixels(straight / "a_HE.ome.tif"))

    def stage(number, side):
        options = {"codec": ZSTD, "levels": 1, "fingerprint": job.fingerprint()}
        return BlockJournal(kept / f"stage-{number:02d}", Size(side, side), **options)

    red, green, blue = small_net().config["background"]
    colour = background_of(stage(0, 128).read(Region(0, 0, 128, 128)), (red, green, blue))
    glass = stage_background(stage(2, 512), Size.square(1024), 2, mpp=job.mpp, colour=colour)
    rows = stainers.begin(Size.square(1024), glass).push(alone)
    wanted = np.concatenate([part for _, part in rows])
    assert np.array_equal(wanted, pixels(straight / "a_IHC-SYN.ome.tif"))


class Stop(Exception):
    """Stands for a run that ends."""


def test_interrupted_it_goes_on_to_the_same_bytes(straight, stainers, tmp_path):
    job = pair_job(tmp_path, stainers, layout="lossless")

    def stop(done):
        if done.stage == 3 and done.rows >= 900:
            raise Stop

    with pytest.raises(Stop):
        make(job, stainers, block=512, progress=stop)
    assert contents(tmp_path) == {}
    assert has_work(job)
    make(job, stainers, block=512)
    assert contents(tmp_path) == contents(straight)
    assert not has_work(job)


def _child(job, name, threads):
    torch.set_num_threads(threads)  # as many as its parent: sums over other shares round otherwise

    def die(done):
        if all(
            list(folder.glob("0000*.block")) for folder in (job.work / "stage-03", job.ihc[0].work / "rows")
        ):
            os.kill(os.getpid(), signal.SIGKILL)

    make(job, opened(name), block=512, progress=die)


def test_killed_it_goes_on_to_the_same_bytes(straight, stainers, tmp_path):
    job = pair_job(tmp_path, stainers, layout="lossless")
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=_child, args=(job, stainers.stains[0].stainer, torch.get_num_threads()))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert list(job.work.glob("stage-03/0000*.block"))
    assert list(job.ihc[0].work.glob("rows/0000*.block"))
    make(job, stainers, block=512)
    assert contents(tmp_path) == contents(straight)


def test_a_run_without_the_stain_may_go_on_with_it(straight, stainers, tmp_path):
    job = pair_job(tmp_path, stainers, layout="lossless")

    def stop(done):
        if done.stage == 3 and done.rows >= 900:
            raise Stop

    with pytest.raises(Stop):
        make(replace(job, stains=()), None, block=512, progress=stop)
    make(job, stainers, block=512)
    assert contents(tmp_path) == contents(straight)


@pytest.fixture
def copied(straight, tmp_path):
    return shutil.copytree(straight, tmp_path / "copied")


def remove(folder, kind):
    for file in folder.glob(f"a_{kind}.*"):
        file.unlink()


def test_killed_between_the_two_names(straight, stainers, copied):
    """The stain gets its name first; what is there already is not made again."""
    remove(copied, "HE")
    before = (copied / "a_IHC-SYN.ome.tif").stat().st_mtime_ns
    (files,) = make(pair_job(copied, stainers, layout="lossless"), stainers)
    assert files.slide.name == "a_HE.ome.tif"
    assert contents(copied) == contents(straight)
    assert (copied / "a_IHC-SYN.ome.tif").stat().st_mtime_ns == before


def test_a_slide_without_its_stain_is_not_sampled_again(stainers, copied):
    remove(copied, "IHC-SYN")
    job = pair_job(copied, stainers, layout="lossless")
    assert not is_finished(job)
    with pytest.raises(
        OutputError, match=r"without a_IHC-SYN\.ome\.tif; translate it with `wsigen translate .*a_HE"
    ):
        make(job, stainers)


def test_both_are_kept_unless_asked(straight, stainers, copied):
    job = pair_job(copied, stainers, layout="lossless")
    with pytest.raises(OutputError, match="exists already; pass --overwrite"):
        make(job, stainers)
    (copied / "a_IHC-SYN.json").write_text("{}")
    remove(copied, "HE")
    with pytest.raises(OutputError, match=r"a_IHC-SYN\.ome\.tif: exists already; pass --overwrite"):
        make(job, stainers)
    assert len(make(job, stainers, overwrite=True)) == 2
    assert contents(copied) == contents(straight)


def test_killed_while_tidying_up(stainers, copied):
    job = pair_job(copied, stainers, layout="lossless")
    job.ihc[0].work.mkdir()
    assert make(job, stainers) == []
    assert not has_work(job)
