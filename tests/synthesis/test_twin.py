"""An IHC slide as it is asked for: names, and which of two jobs are the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

from wsigen.errors import OutputError
from wsigen.geometry import Size
from wsigen.slide.write import estimate_bytes, layout_codec
from wsigen.stain.engine.stream import Norm
from wsigen.synthesis.twin import Stain, TwinJob

STAIN = Stain(marker="SYN", stainer="SYN", stainer_hash="ab", norm=Norm("dn"), pitch=512, dtype="float32")


def job(out, **changes) -> TwinJob:
    source = {"slide": "a_HE.ome.tif", "sha256": "12", "height": 300, "width": 200, "mpp": 0.5}
    values = {"stain": STAIN, "source": source, "size": Size(300, 200), "mpp": 0.5, "out": out, "name": "a"}
    return TwinJob(**(values | changes))


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
        replace(one, stain=replace(STAIN, stainer="/models/syn")),
        replace(one, source={**one.source, "slide": "renamed.svs"}),
    ]
    other = [
        replace(one, mpp=0.4),
        replace(one, source={**one.source, "sha256": "13"}),
        *(
            replace(one, stain=replace(STAIN, **change))
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


def test_state_of_another_job(tmp_path):
    job(tmp_path).open_journal()
    other = job(tmp_path, stain=replace(STAIN, stainer_hash="cd"))
    with pytest.raises(OutputError, match="holds the state of another run"):
        other.open_journal()
    make(other, overwrite=True)
    assert other.is_finished()


def test_room_for_rows_and_file(tmp_path):
    size = Size(4096, 4096)
    assert job(tmp_path, size=size).disk_bytes == 2 * estimate_bytes(size, layout_codec("linked-ome"), 4)
