"""What an earlier run left: slides that are there, state of this job, state of another."""

from __future__ import annotations

import json
import logging

import pytest

from wsigen.synthesis.state import drop_other_state, is_written, warn_of_disk


@pytest.fixture
def slide(tmp_path):
    path = tmp_path / "a_HE.ome.tif"
    path.write_bytes(b"")
    (tmp_path / "a_HE.json").write_text(json.dumps({"fingerprint": "f", "layout": "generic"}))
    return path


def test_a_slide_is_there_if_file_and_facts_are(slide):
    assert is_written(slide, "f", "generic")
    assert not is_written(slide, "g", "generic")
    assert not is_written(slide, "f", "lossless")
    slide.unlink()
    assert not is_written(slide, "f", "generic")


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"fingerprint": "f"}', "\x00"])
def test_facts_that_are_none(slide, text):
    slide.with_name("a_HE.json").write_text(text)
    assert not is_written(slide, "f", "generic")


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
    drop_other_state([folder, tmp_path / "none"], "f", ("jpeg", "zstd"))
    assert folder.exists() == stays


def test_what_is_no_journal_stays(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    drop_other_state([tmp_path], "f", ("jpeg",))
    assert (tmp_path / "notes.txt").exists()


def test_room_on_the_disk(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        warn_of_disk(tmp_path, 1)
        assert not caplog.records
        warn_of_disk(tmp_path / "new", 2**60)
    assert "a slide can take 1073741824.0 GiB while it is made" in caplog.text
    assert "run the same command again" in caplog.text
