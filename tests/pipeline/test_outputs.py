"""Slide files to make: names, which of two are the same, and the state that other runs left."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from tests.pipeline.models import small_job
from wsigen.errors import OutputError
from wsigen.geometry import Size
from wsigen.pipeline.outputs import IHCOutput, Source, Stain, drop_other_state
from wsigen.slide.write import estimate_bytes, layout_codec
from wsigen.stain.normalise.norm import Norm

FACTS = {"slide": "a_HE.ome.tif", "sha256": "12", "height": 300, "width": 200, "mpp": 0.5}
SOURCE = Source(size=Size(300, 200), facts=FACTS)


def stain(marker="SYN", **changes):
    values = {"stainer": "SYN", "stainer_hash": "ab", "norm": Norm("dn"), "pitch": 512, "dtype": "float32"}
    return Stain.of_marker(marker, **(values | changes))


def job(out, **changes) -> IHCOutput:
    values = {"stain": stain(), "source": SOURCE, "mpp": 0.5, "out": out, "name": "a"}
    return IHCOutput(**(values | changes))


def make(job, seed=0, **options):
    journal = job.open_journal(overwrite=options.get("overwrite", False))
    rows = np.random.default_rng(seed).integers(0, 256, (*(300, 200), 3)).astype(np.uint8)
    journal.append(rows)
    return job.write(journal, overwrite=options.get("overwrite", False))


def test_names():
    assert job(Path("out")).slide == Path("out/a_IHC-SYN.ome.tif")
    assert job(Path("out")).work == Path("out/.a_IHC-SYN.partial")


def test_the_same_pixels_have_the_same_fingerprint():
    one = job(Path("x"))
    same = [
        replace(one, out=Path("y"), name="b", layout="generic"),
        replace(one, stain=stain(stainer="/models/syn")),
        replace(one, source=replace(SOURCE, facts={**FACTS, "slide": "renamed.svs"})),
    ]
    other = [
        replace(one, mpp=0.4),
        replace(one, source=replace(SOURCE, facts={**FACTS, "sha256": "13"})),
        *(
            replace(one, stain=stain(**change))
            for change in (
                {"stainer_hash": "cd"},
                {"pitch": 1024},
                {"dtype": "bfloat16"},
                {"norm": Norm("kin")},
                {"marker": "CGA"},
            )
        ),
    ]
    assert {j.fingerprint() for j in same} == {one.fingerprint()}
    assert len({one.fingerprint(), *(j.fingerprint() for j in other)}) == 1 + len(other)


def test_what_the_slide_says_about_itself(tmp_path):
    files = make(job(tmp_path))
    facts = json.loads(files.provenance.read_text())
    assert facts["synthetic"] is True
    assert "not for diagnosis" in facts["notice"]
    assert "diffusion" not in facts["notice"]
    assert facts["source"]["slide"] == "a_HE.ome.tif"
    assert (facts["marker"], facts["stainer_hash"], facts["norm"]["kind"]) == ("SYN", "ab", "dn")
    assert (facts["height"], facts["width"], facts["mpp"]) == (300, 200, 0.5)
    with tifffile.TiffFile(files.slide) as tif:
        assert "not seen in any tissue, not for diagnosis" in tif.ome_metadata
    assert job(tmp_path).is_finished()
    assert not job(tmp_path, mpp=0.4).is_finished()


def test_the_number_of_threads_is_stated_and_makes_no_other_slide(tmp_path):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        files = make(job(tmp_path))
        assert json.loads(files.provenance.read_text())["threads"] == 2
        torch.set_num_threads(1)
        assert job(tmp_path).is_finished()
    finally:
        torch.set_num_threads(before)


def test_state_of_another_job(tmp_path):
    job(tmp_path).open_journal()
    other = job(tmp_path, stain=stain(stainer_hash="cd"))
    with pytest.raises(OutputError, match="holds the state of another run"):
        other.open_journal()
    make(other, overwrite=True)
    assert other.is_finished()


def test_room_for_rows_and_file(tmp_path):
    size = Size(4096, 4096)
    assert job(tmp_path, source=replace(SOURCE, size=size)).disk_bytes == 2 * estimate_bytes(
        size, layout_codec("linked-ome"), 4
    )


@pytest.fixture
def written(tmp_path):
    """A slide that its facts say is there."""
    he = small_job(tmp_path, layout="generic")
    he.slide.write_bytes(b"")
    facts = {"fingerprint": he.fingerprint(), "layout": "generic"}
    (tmp_path / "a_HE.json").write_text(json.dumps(facts))
    return he


def test_a_slide_is_finished_if_file_and_facts_are_there(written):
    assert written.is_finished()
    assert not replace(written, seed=1).is_finished()
    assert not replace(written, layout="lossless").is_finished()
    written.slide.unlink()
    assert not written.is_finished()


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"fingerprint": "f"}', "\x00"])
def test_facts_that_cannot_be_read(written, text):
    written.slide.with_name("a_HE.json").write_text(text)
    assert not written.is_finished()


@pytest.mark.parametrize(
    ("manifest", "stays"),
    [
        ('{"fingerprint": "f", "codec": "jpeg"}', True),
        ('{"fingerprint": "f", "codec": "zstd"}', True),
        ('{"fingerprint": "f", "codec": "deflate"}', False),
        ('{"fingerprint": "g", "codec": "jpeg"}', False),
        ('{"codec": "jpeg"}', False),
        ("[]", False),
        ("torn {", False),
    ],
)
def test_journals_of_another_job_go(tmp_path, manifest, stays):
    folder = tmp_path / "stage-00"
    folder.mkdir()
    (folder / "journal.json").write_text(manifest)
    (folder / "0000_0000.block").write_bytes(b"")
    drop_other_state(tmp_path, "f", ("jpeg", "zstd"))
    drop_other_state(tmp_path / "none", "f", ("jpeg", "zstd"))
    assert folder.exists() == stays


def test_what_is_no_journal_stays(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    drop_other_state(tmp_path, "f", ("jpeg",))
    assert (tmp_path / "notes.txt").exists()
