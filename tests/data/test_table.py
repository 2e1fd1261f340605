"""The user's table."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsigen.data.table import Row, SlideTable, group_splits
from wsigen.errors import InvalidValueError, PathError
from wsigen.slide.view import View


def load(tmp_path: Path, text: str) -> SlideTable:
    path = tmp_path / "table.csv"
    path.write_text(text, encoding="utf-8")
    return SlideTable.load(path)


def test_all_columns(tmp_path):
    head = "slide,mpp,group,split,finest_mpp,series,z,class"
    table = load(tmp_path, f"{head}\na/b.svs, 0.25 ,P1,val, 1.0, 2,0, soft tissue \nc.tif,,,,,,,\n")
    row = Row(0.25, "P1", "val", 1.0, 2, 0, "soft tissue")
    assert table.match(["a/b.svs", "c.tif"]) == {"a/b.svs": row, "c.tif": Row()}
    assert row.view == View(series=2, z=0)


def test_the_column_of_classes_is_chosen(tmp_path):
    load(tmp_path, "slide,class,Organ\na.tif,1,liver\n")
    found = SlideTable.load(tmp_path / "table.csv", "organ").match(["a.tif"])
    assert found == {"a.tif": Row(class_label="liver")}
    with pytest.raises(PathError, match="no column 'site' for the classes; got slide, class, organ"):
        SlideTable.load(tmp_path / "table.csv", "site")


@pytest.mark.parametrize("header", ["file,mpp", "Slide, MPP", "\ufeffslide,mpp,other", "other,mpp,slide"])
def test_headers_are_read_leniently(tmp_path, header):
    values = {"mpp": "0.5", "slide": "a.tif", "file": "a.tif", "other": "x"}
    line = ",".join(values[c.strip("\ufeff ").lower()] for c in header.split(","))
    assert load(tmp_path, f"{header}\n{line}\n").match(["a.tif"])["a.tif"] == Row(0.5)


@pytest.mark.parametrize(
    "key", ["in/a.ome.tif", "a.ome.tif", "in/a.ome", "a.ome", "a", "elsewhere/a.ome.tif", r"in\a.ome.tif"]
)
def test_a_slide_is_known_by_path_file_or_stem(tmp_path, key):
    assert load(tmp_path, f"slide,mpp\n{key},0.5\n").match(["in/a.ome.tif"])["in/a.ome.tif"].mpp == 0.5


def test_the_longest_match_wins(tmp_path, caplog):
    table = load(tmp_path, "slide,mpp\na.tif,1\nx/a.tif,2\n")
    assert [row.mpp for row in table.match(["x/a.tif", "y/a.tif"]).values()] == [2, 1]
    assert not caplog.records


def test_rows_that_could_mean_several_slides_mean_none(tmp_path, caplog):
    table = load(tmp_path, "slide,mpp\nx/a.tif,1\ny/a.tif,2\n")
    assert table.match(["a.tif"])["a.tif"] == Row()
    assert "2 rows match no slide: x/a.tif, y/a.tif" in caplog.text


def test_unused_rows_are_warned_of(tmp_path, caplog):
    table = load(tmp_path, "slide,mpp\n" + "".join(f"{i}.tif,1\n" for i in range(9)))
    table.match(["3.tif"])
    assert "table.csv: 8 rows match no slide: 0.tif, 1.tif, 2.tif, 4.tif, 5.tif …" in caplog.text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no column 'slide'; got none"),
        ("name,mpp\na,1\n", "no column 'slide'; got name, mpp"),
        ("slide,um\na,1\n", "none of the columns mpp, group, split"),
        ("slide,mpp\na,wide\n", r"line 2: mpp must be a number in \(0, 1000\] µm/px, got 'wide'"),
        ("slide,mpp\na,1\nb,-1\n", "line 3: mpp must be"),
        ("slide,mpp\na,nan\n", "line 2: mpp must be"),
        ("slide,finest_mpp\na,0\n", r"line 2: finest_mpp must be a number in \(0, 1000\] µm/px, got '0'"),
        ("slide,series\na,first\n", "line 2: series must be a number from 0 on, got 'first'"),
        ("slide,z\na,-1\n", "line 2: z must be a number from 0 on, got '-1'"),
        ("slide,split\na,validation\n", "line 2: split must be one of train, val, test, got 'validation'"),
        ("slide,mpp\na,1\na,2\n", "line 3: 'a' comes twice"),
    ],
)
def test_mistakes_name_the_line(tmp_path, text, reason):
    with pytest.raises(PathError, match=rf"table\.csv: .*{reason}"):
        load(tmp_path, text)


def test_unreadable_tables_are_named(tmp_path):
    with pytest.raises(PathError, match=r"none\.csv: not a readable CSV"):
        SlideTable.load(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(PathError, match=r"binary\.csv: not a readable CSV"):
        SlideTable.load(tmp_path / "binary.csv")


@given(
    names=st.sets(st.text(min_size=1, max_size=5), min_size=1, max_size=60),
    fraction=st.floats(0.0, 0.5),
    data=st.data(),
)
def test_splits_are_shares_of_groups_and_stay_put(names, fraction, data):
    groups: dict[str, str | None] = dict.fromkeys(sorted(names))
    splits = group_splits(groups, fraction)
    assert set(splits) == names
    count = list(splits.values()).count("val")
    least = 1 if len(names) >= 2 and fraction > 0 else 0
    assert count == max(least, round(fraction * len(names)))
    shuffled = data.draw(st.permutations(sorted(names)))
    assert group_splits(dict.fromkeys(shuffled), fraction) == splits


def test_what_the_table_says_is_kept():
    said = {"a": "test", "b": None, "c": "val", "d": "train", "e": None}
    splits = group_splits(said, 0.9)
    assert splits == {"a": "test", "b": "train", "c": "val", "d": "train", "e": "train"}
    assert list(group_splits({"a": "test", "b": None, "c": None}, 0.1).values()).count("val") == 1


@pytest.mark.parametrize("fraction", [-0.1, 1.0])
def test_the_fraction_is_checked(fraction):
    with pytest.raises(InvalidValueError, match=r"val_fraction must be in \[0, 1\)"):
        group_splits({"a": None}, fraction)
