from __future__ import annotations

import errno
import gc
import json
import subprocess
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.synthetic import he_image
from wsigen.errors import InvalidValueError, OutputError
from wsigen.geometry import Region, Size
from wsigen.slide.block import BlockWriter
from wsigen.slide.codec import DEFLATE, JPEG, ZSTD
from wsigen.slide.journal import BlockJournal
from wsigen.slide.pyramid import halve, level_size

TILE, BLOCK = 32, 128
IMAGE = he_image((300, 419), seed=7)
SIZE = Size(*IMAGE.shape[:2])


def open_journal(folder, codec=JPEG, levels=5, size=SIZE, fingerprint="run", **options):
    options = {"tile": TILE, "block": BLOCK, **options}
    return BlockJournal(folder, size, codec=codec, levels=levels, fingerprint=fingerprint, **options)


def fill(journal, image=IMAGE, chop=50, until=None):
    end = len(image) if until is None else until
    for y in range(journal.rows_done, end, chop):
        journal.append(image[y : min(y + chop, end)])
    return journal


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    fill(open_journal(folder))
    return contents(folder)


@settings(deadline=None, max_examples=15)
@given(chops=st.lists(st.integers(1, 300), min_size=1, max_size=12), threads=st.integers(1, 3))
def test_bytes_do_not_depend_on_chops_or_threads(tmp_path_factory, reference, chops, threads):
    folder = tmp_path_factory.mktemp("chopped")
    journal = open_journal(folder, threads=threads)
    y = turn = 0
    while y < len(IMAGE):
        chop = chops[turn % len(chops)]
        journal.append(IMAGE[y : y + chop])
        y, turn = y + chop, turn + 1
    assert journal.complete
    assert contents(folder) == reference


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_read_gives_any_region_exactly(tmp_path_factory, data):
    journal = fill(open_journal(tmp_path_factory.mktemp("read"), ZSTD, levels=1))
    for _ in range(5):
        y, x = data.draw(st.integers(0, SIZE.height - 1)), data.draw(st.integers(0, SIZE.width - 1))
        height = data.draw(st.integers(0, SIZE.height - y))
        width = data.draw(st.integers(0, SIZE.width - x))
        np.testing.assert_array_equal(
            journal.read(Region(y, x, height, width)), IMAGE[y : y + height, x : x + width]
        )


def test_read_needs_no_room_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("wsigen.slide.journal._CACHED_TILES", 1)
    journal = fill(open_journal(tmp_path, ZSTD, levels=1))
    for _ in range(2):
        np.testing.assert_array_equal(journal.read(SIZE.region), IMAGE)
    assert journal._cache.nbytes == 3 * journal.grid.tile**2


@pytest.mark.parametrize("codec", [JPEG, DEFLATE, ZSTD], ids=lambda codec: codec.name)
def test_levels_are_averages_and_the_seed_is_exact(tmp_path, codec):
    journal = fill(open_journal(tmp_path, codec, levels=5))
    assert journal.grid.seed_level == 2
    level = IMAGE
    for n in range(3):
        size = level_size(SIZE, n)
        found = journal.read(size.region, n).astype(int)
        if codec.lossless or n == 2:
            np.testing.assert_array_equal(found, level)
        else:
            assert np.sqrt(np.mean((found - level) ** 2)) < 12
        level = halve(level)


def test_encoded_tiles_are_row_major_and_padded_by_repetition(tmp_path):
    journal = fill(open_journal(tmp_path, DEFLATE))
    tiles = [DEFLATE.decode(data) for data in journal.encoded_tiles(1)]
    level = halve(IMAGE)
    rows, cols = -(-level.shape[0] // TILE), -(-level.shape[1] // TILE)
    padding = (0, rows * TILE - level.shape[0]), (0, cols * TILE - level.shape[1]), (0, 0)
    padded = np.pad(level, padding, mode="edge")
    assert len(tiles) == rows * cols
    for number, tile in enumerate(tiles):
        y, x = TILE * (number // cols), TILE * (number % cols)
        np.testing.assert_array_equal(tile, padded[y : y + TILE, x : x + TILE])


def test_rows_done_moves_by_whole_rows_of_blocks(tmp_path):
    journal = open_journal(tmp_path)
    done = []
    for y in range(0, len(IMAGE), 50):
        journal.append(IMAGE[y : y + 50])
        done.append(journal.rows_done)
    assert done == [0, 0, 128, 128, 128, 300]
    assert journal.complete


@pytest.mark.parametrize("stopped_at", [1, 127, 128, 200, 299])
def test_interrupted_run_gives_the_same_bytes(tmp_path, reference, stopped_at):
    fill(open_journal(tmp_path), until=stopped_at)
    journal = open_journal(tmp_path)
    assert journal.rows_done == stopped_at // BLOCK * BLOCK
    fill(journal, chop=77)
    assert contents(tmp_path) == reference


def test_reopening_a_complete_journal_keeps_it(tmp_path, reference):
    fill(open_journal(tmp_path))
    journal = open_journal(tmp_path)
    assert journal.complete
    assert contents(tmp_path) == reference
    with pytest.raises(InvalidValueError, match="1 to 0"):
        journal.append(IMAGE[:1])


def drop(path):
    path.unlink()


def truncate(path):
    path.write_bytes(path.read_bytes()[:-40])


def damage(path):
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("harm", [drop, truncate, damage])
@pytest.mark.parametrize(("block", "done"), [("0000_0002", 0), ("0001_0000", 128), ("0002_0003", 256)])
def test_harmed_block_counts_as_not_done_and_is_remade(tmp_path, reference, harm, block, done):
    fill(open_journal(tmp_path))
    harm(tmp_path / f"{block}.block")
    journal = open_journal(tmp_path)
    assert journal.rows_done == done
    fill(journal)
    assert contents(tmp_path) == reference


def test_leftover_temporary_files_are_swept(tmp_path, reference):
    fill(open_journal(tmp_path), until=200)
    assert list(tmp_path.glob("*.tmp"))
    (tmp_path / "0002_0001.block.tmp").write_bytes(b"torn")
    journal = open_journal(tmp_path)
    assert not list(tmp_path.glob("*.tmp"))
    fill(journal)
    assert contents(tmp_path) == reference


def test_damage_after_opening_is_an_error_with_the_fix(tmp_path):
    journal = fill(open_journal(tmp_path, ZSTD, levels=1))
    damage(tmp_path / "0000_0000.block")
    with pytest.raises(OutputError, match=r"0000_0000\.block: was damaged.*run the same command again"):
        journal.read(SIZE.region)
    assert open_journal(tmp_path, ZSTD, levels=1).rows_done == 0


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"fingerprint": "other"}, "fingerprint"),
        ({"size": Size(300, 420)}, "size"),
        ({"codec": DEFLATE}, "codec"),
        ({"levels": 1}, "levels"),
        ({"block": 256}, "block"),
        ({"tile": 64}, "tile"),
    ],
)
def test_state_of_another_run_is_refused_and_kept(tmp_path, reference, change, key):
    fill(open_journal(tmp_path))
    with pytest.raises(OutputError, match=f"state of another run \\({key} .*remove that folder"):
        open_journal(tmp_path, **change)
    assert contents(tmp_path) == reference


@pytest.mark.parametrize("text", ["", "{", "[1]", "null"])
def test_unreadable_description_is_refused(tmp_path, text):
    fill(open_journal(tmp_path), until=150)
    (tmp_path / "journal.json").write_text(text)
    with pytest.raises(OutputError, match=r"journal\.json: .*remove that folder"):
        open_journal(tmp_path)


def test_blocks_without_description_are_refused(tmp_path):
    fill(open_journal(tmp_path))
    (tmp_path / "journal.json").unlink()
    with pytest.raises(OutputError, match=r"no journal\.json"):
        open_journal(tmp_path)


def test_description_can_be_read_by_people(tmp_path):
    open_journal(tmp_path)
    described = json.loads((tmp_path / "journal.json").read_text())
    assert described["size"] == [300, 419]
    assert (described["codec"], described["fingerprint"], described["levels"]) == ("jpeg85", "run", 5)


@pytest.mark.parametrize(("method", "call"), [("flush", 3), ("flush", 40), ("finish", 1), ("finish", 6)])
def test_disk_full_is_reported_and_the_run_goes_on(tmp_path, reference, monkeypatch, method, call):
    original, calls = getattr(BlockWriter, method), []

    def full(self):
        calls.append(self)
        if len(calls) == call:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(self)

    monkeypatch.setattr(BlockWriter, method, full)
    folder = tmp_path / "journal"
    journal = open_journal(folder)
    with pytest.raises(OutputError, match=r"no space left.*[KMG]iB free.*to resume"):
        fill(journal)
    assert not list(folder.glob("*.tmp"))
    assert journal.rows_done == open_journal(folder).rows_done < len(IMAGE)
    fill(journal)
    assert contents(folder) == reference


def test_truly_full_disk(small_disk, reference):
    folder = small_disk / "journal"
    journal = open_journal(folder)
    with pytest.raises(OutputError, match=r"no space left on device, \d+ KiB free"):
        fill(journal)
    assert 0 <= journal.rows_done < len(IMAGE)
    done = open_journal(folder).rows_done
    assert done == journal.rows_done
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    fill(open_journal(folder))
    assert contents(folder) == reference


def test_read_only_disk(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(OutputError, match="read-only"):
        open_journal(small_disk / "journal")


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="choose another folder"):
        open_journal(tmp_path / "file" / "journal")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((5, 400, 3), np.uint8), r"\(height, 419, 3\), got uint8 \(5, 400, 3\)"),
        (np.zeros((5, 419, 3), np.float32), "must be uint8"),
        (np.zeros((419, 3), np.uint8), "must be uint8"),
        (np.zeros((0, 419, 3), np.uint8), "1 to 300"),
        (np.zeros((301, 419, 3), np.uint8), "1 to 300"),
    ],
)
def test_wrong_rows_are_refused_and_change_nothing(tmp_path, reference, rows, message):
    journal = open_journal(tmp_path)
    with pytest.raises(InvalidValueError, match=message):
        journal.append(rows)
    fill(journal, until=100)
    with pytest.raises(InvalidValueError, match=r"\(height, 419, 3\)|1 to 200"):
        journal.append(rows)
    for y in range(100, 300, 10):
        journal.append(IMAGE[y : y + 10])
    assert contents(tmp_path) == reference


@pytest.mark.parametrize(
    ("region", "level"),
    [
        (Region(100, 0, 29, 9), 0),
        (Region(-1, 0, 5, 5), 0),
        (Region(0, 415, 5, 5), 0),
        (Region(0, 0, 1, 1), 3),
    ],
)
def test_reading_what_is_not_there_is_refused(tmp_path, region, level):
    journal = fill(open_journal(tmp_path), until=200)
    with pytest.raises(InvalidValueError, match=r"128 rows x 419 columns|16 rows"):
        journal.read(region, level)


def test_delete_removes_its_files_only(tmp_path):
    journal = fill(open_journal(tmp_path / "journal"), until=200)
    (tmp_path / "journal" / "notes.txt").write_text("mine")
    journal.delete()
    assert [file.name for file in (tmp_path / "journal").iterdir()] == ["notes.txt"]
    journal = fill(open_journal(tmp_path / "other"))
    journal.delete()
    assert not (tmp_path / "other").exists()


def test_memory_grows_with_width_not_with_height(tmp_path):
    width, tile = 16384, 32
    rows = np.tile(IMAGE[:64, :256], (1, width // 256, 1))
    peaks = []
    gc.disable()  # a reference cycle would keep every row of blocks alive
    try:
        for height in (128, 640):
            journal = open_journal(tmp_path / str(height), levels=6, size=Size(height, width))
            tracemalloc.start()
            for _ in range(0, height, len(rows)):
                journal.append(rows)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    finally:
        gc.enable()
    strips = 2 * 3 * tile * width
    assert peaks[0] < 2 * strips
    assert peaks[1] < 1.1 * peaks[0] + 200_000
