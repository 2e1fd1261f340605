from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsigen.errors import InvalidValueError
from wsigen.geometry import Size
from wsigen.slide.block import BlockGrid, BlockWriter, read_index, read_tile, verified_index

TILES = [b"one", b"", b"three" * 1000, b"4"]


def write_block(path, tiles=TILES):
    writer = BlockWriter(path, len(tiles))
    for position in reversed(range(len(tiles))):
        writer.add(position, tiles[position])
        writer.flush()
    return writer.finish()


def test_tiles_come_back_whatever_their_order(tmp_path):
    path = tmp_path / "a.block"
    index = write_block(path)
    assert [read_tile(path, entry) for entry in index] == TILES
    assert read_index(path, 4).tolist() == verified_index(path, 4).tolist() == index.tolist()
    assert [file.name for file in tmp_path.iterdir()] == ["a.block"]


def test_unfinished_block_has_no_final_name(tmp_path):
    writer = BlockWriter(tmp_path / "a.block", 1)
    writer.add(0, b"data")
    writer.flush()
    assert read_index(tmp_path / "a.block", 1) is None
    assert [file.name for file in tmp_path.iterdir()] == ["a.block.tmp"]
    writer.discard()
    assert not list(tmp_path.iterdir())


def test_leftover_of_a_killed_writer_is_not_continued(tmp_path):
    (tmp_path / "a.block.tmp").write_bytes(b"torn")
    assert read_tile(tmp_path / "a.block", write_block(tmp_path / "a.block")[0]) == b"one"


def test_any_cut_makes_a_block_unreadable(tmp_path):
    path = tmp_path / "a.block"
    write_block(path)
    data = path.read_bytes()
    for length in {0, 1, len(data) // 2, len(data) - 20, len(data) - 1}:
        path.write_bytes(data[:length])
        assert read_index(path, 4) is None, length


def test_any_changed_byte_is_found(tmp_path):
    path = tmp_path / "a.block"
    write_block(path, [b"abcd", b"ef"])
    data = path.read_bytes()
    for position in range(len(data)):
        path.write_bytes(data[:position] + bytes([data[position] ^ 16]) + data[position + 1 :])
        assert verified_index(path, 2) is None, position


def test_damaged_tile_is_none_and_the_others_are_read(tmp_path):
    path = tmp_path / "a.block"
    index = write_block(path)
    data = bytearray(path.read_bytes())
    data[int(index[2]["offset"])] ^= 1
    path.write_bytes(data)
    assert [read_tile(path, entry) for entry in read_index(path, 4)] == [b"one", b"", None, b"4"]


def test_block_of_another_grid_is_refused(tmp_path):
    write_block(tmp_path / "a.block")
    assert read_index(tmp_path / "a.block", 5) is None


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 700), st.integers(1, 700), st.sampled_from([16, 32]), st.integers(1, 3), st.integers(1, 6)
)
def test_every_tile_has_its_own_position_and_every_position_its_tile(height, width, tile, n, levels):
    grid = BlockGrid(Size(height, width), tile, tile << n, levels)
    positions = []
    for level in range(grid.stored_levels):
        tiles = grid.level_tiles(level)
        positions += [
            grid.locate(level, row, col)
            for row, col in itertools.product(range(tiles.height), range(tiles.width))
        ]
    wanted = [
        (row, col, position)
        for row, col in itertools.product(range(grid.blocks.height), range(grid.blocks.width))
        for position in range(grid.tile_count(row, col))
    ]
    assert sorted(positions) == wanted


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": Size(0, 5)}, "size must be"),
        ({"tile": 40}, "multiple of 16"),
        ({"block": 256}, "tile \\* 2"),
        ({"block": 768}, "256 \\* 2\\*\\*3 = 2048"),
        ({"levels": 0}, "levels must be"),
    ],
)
def test_impossible_grids_are_explained(change, message):
    good = {"size": Size(100, 100), "tile": 256, "block": 2048, "levels": 3}
    with pytest.raises(InvalidValueError, match=message):
        BlockGrid(**{**good, **change})
