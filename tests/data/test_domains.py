"""Two domains of slides: what names them, who is held out, and patches of both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.synthetic import he_image, write_tiff
from wsigen.data.domains import (
    TARGET_STREAM,
    DomainDataset,
    Domains,
    collate_domains,
    expand,
    load_or_build_domains,
)
from wsigen.data.patches import PatchDataset, PatchKey
from wsigen.data.survey import build_index
from wsigen.data.table import group_splits
from wsigen.errors import InvalidValueError, PathError, SlideError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cases in H&E, the first one with an IHC twin; and a table that tells their groups."""
    folder = tmp_path_factory.mktemp("domains")
    for name, seed in (("he/a.tif", 0), ("he/b.tif", 1), ("ihc/a_SYN.tif", 2), ("ihc/a_CHR.tif", 3)):
        (folder / name).parent.mkdir(exist_ok=True)
        image = he_image(192, seed, mpp=2.0)
        write_tiff(folder / name, image[..., ::-1] if "ihc" in name else image, 2.0, levels=1)
    rows = ["he/a.tif,A/HE", "he/b.tif,B/HE", "ihc/a_SYN.tif,A/SYN", "ihc/a_CHR.tif,A/CHR"]
    (folder / "table.csv").write_text("slide,group\n" + "\n".join(rows) + "\n")
    (folder / "he" / "notes.txt").write_text("not a slide")
    return folder


def build(folder: Path, source="he", target="ihc/*_SYN.tif", table="table.csv", **options) -> Domains:
    csv = folder / table if table else None
    return load_or_build_domains(str(folder / source), str(folder / target), table=csv, **options)


def splits(domains: Domains) -> tuple[dict[str, str], dict[str, str]]:
    source, target = ({e.slide: e.split for e in d.entries} for d in (domains.source, domains.target))
    return source, target


@pytest.mark.parametrize(
    ("slides", "names"),
    [
        ("he", ["a.tif", "b.tif"]),
        ("he/b.tif", ["b.tif"]),
        ("ihc/*_SYN.tif", ["a_SYN.tif"]),
        ("*/a*", ["a.tif", "a_CHR.tif", "a_SYN.tif"]),
        ("**/?.tif", ["a.tif", "b.tif"]),
        (["he/a.tif", "he", "ihc/a_[C]*"], ["a.tif", "b.tif", "a_CHR.tif"]),
    ],
)
def test_folders_slides_and_patterns_name_slides(folder, monkeypatch, slides, names):
    monkeypatch.chdir(folder)
    found = expand(slides)
    assert list(found) == names
    assert all(path.is_absolute() and path.is_file() for path in found.values())
    absolute = [str(folder / one) for one in ([slides] if isinstance(slides, str) else slides)]
    assert expand(absolute) == found


def test_slides_of_one_name_in_two_folders_are_told_apart(tmp_path):
    for name in ("x/a.tif", "y/a.tif"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"")
    found = expand([str(tmp_path / "x"), str(tmp_path / "y")])
    assert list(found) == [(tmp_path / n).as_posix() for n in ("x/a.tif", "y/a.tif")]


@pytest.mark.parametrize(
    ("slides", "reason"),
    [
        ("he/*.svs", r"he/\*\.svs: no slide matches this pattern"),
        ("he/n*", "no slide matches this pattern"),
        ("nowhere", "no such file or folder"),
        (["he", "nowhere/a.tif"], "no such file or folder"),
    ],
)
def test_what_names_no_slide_is_refused(folder, monkeypatch, slides, reason):
    monkeypatch.chdir(folder)
    with pytest.raises(SlideError, match=reason):
        expand(slides)


def test_a_case_is_in_one_split_and_every_domain_keeps_one_to_learn_from(folder):
    """A is the only case of the target, so B is held out, whatever its name's hash."""
    source, target = splits(build(folder))
    assert source == {"a.tif": "train", "b.tif": "val"}
    assert target == {"a_SYN.tif": "train"}


def test_nothing_is_held_out_where_nothing_can_be(folder):
    source, target = splits(build(folder, source="he/a.tif"))
    assert (source, target) == ({"a.tif": "train"}, {"a_SYN.tif": "train"})
    source, _ = splits(build(folder, val_fraction=0.0))
    assert set(source.values()) == {"train"}


def test_the_tables_splits_are_kept(folder):
    (folder / "said.csv").write_text("slide,group,split\na.tif,A,\nb.tif,B,train\na_SYN.tif,A,\n")
    source, target = splits(build(folder, table="said.csv"))
    assert (source, target) == ({"a.tif": "train", "b.tif": "train"}, {"a_SYN.tif": "train"})
    (folder / "cross.csv").write_text("slide,group,split\na.tif,A,train\nb.tif,B,\na_SYN.tif,A,val\n")
    with pytest.raises(InvalidValueError, match=r"group 'A' is in split train of data\.source and val"):
        build(folder, table="cross.csv")
    (folder / "none.csv").write_text("slide,split\na_SYN.tif,val\n")
    with pytest.raises(SlideError, match=r"_SYN\.tif: no slide in the train split"):
        build(folder, table="none.csv")


def test_indexes_are_taken_as_they_are(folder):
    index, _ = build_index(folder / "ihc", folder / "table.csv", progress=False)
    index.save(folder / "ihc.parquet")
    domains = build(folder, target="ihc.parquet", val_fraction=0.6)
    assert domains.target == index
    assert splits(domains)[0] == {"a.tif": "train", "b.tif": "val"}
    assert [e.slide for e in domains.split("val").source.entries] == ["b.tif"]


def test_a_slide_cannot_be_in_both_domains(folder):
    with pytest.raises(InvalidValueError, match=r"a\.tif is both in data\.source and data\.target"):
        build(folder, target="*/a*")


def test_a_missing_table_is_named(folder):
    with pytest.raises(PathError, match=r"no\.csv: not a readable CSV"):
        build(folder, table="no.csv")


@given(
    domains=st.lists(st.sets(st.sampled_from("abcdefgh"), min_size=1), min_size=1, max_size=3),
    fraction=st.floats(0.0, 0.99),
)
def test_shares_leave_every_domain_something_to_learn_from(domains, fraction):
    groups: dict[str, str | None] = dict.fromkeys(sorted(set().union(*domains)))
    found = group_splits(groups, fraction, domains)
    assert all(any(found[g] == "train" for g in domain) for domain in domains)
    held = [g for g in groups if found[g] == "val"]
    assert len(held) <= max(1, round(fraction * len(groups)))
    if fraction == 0:
        assert not held


def patches(folder: Path, name: str, seed: int) -> PatchDataset:
    index, _ = build_index(folder / name, progress=False)
    return PatchDataset(index, seed=seed, mpp_range=(2.0, 2.0), anywhere_fraction=0.0)


def test_pairs_are_as_many_of_each_domain_and_drawn_apart(folder):
    source, target = patches(folder, "he", 5), patches(folder, "ihc", 5 ^ TARGET_STREAM)
    pairs = DomainDataset(source, target)
    pairs.require(32)
    keys = [PatchKey(n, 32) for n in range(3)]
    he, ihc, numbers = collate_domains([pairs[key] for key in keys])
    assert numbers == [0, 1, 2]
    assert torch.equal(he, torch.stack([source[key].image for key in keys]))
    assert torch.equal(ihc, torch.stack([target[key].image for key in keys]))
    same = PatchDataset(target.index, seed=5, mpp_range=(2.0, 2.0), anywhere_fraction=0.0)
    assert not any(torch.equal(same[key].image, target[key].image) for key in keys)
    assert TARGET_STREAM ^ (2**62 - 1) < 2**63, "a seed of any run gives one that the generator takes"


def test_the_domain_that_cannot_serve_the_patches_is_named(folder):
    fine = PatchDataset(patches(folder, "ihc", 1).index, mpp_range=(0.5, 0.5))
    with pytest.raises(InvalidValueError, match=r"data\.target: no slide can serve 512 px patches"):
        DomainDataset(PatchDataset(fine.index, mpp_range=(2.0, 8.0)), fine).require(512)


def test_slides_are_drawn_by_their_area_of_tissue(folder, tmp_path):
    """At 2 µm/px, 3000 draws: the share of a slide is that of its tissue, within four standard deviations."""
    write_tiff(tmp_path / "small.tif", he_image(128, 0, mpp=2.0), 2.0, levels=1)
    write_tiff(tmp_path / "large.tif", he_image(256, 1, mpp=2.0), 2.0, levels=1)
    index, _ = build_index(tmp_path, progress=False)
    areas = {e.slide: e.tissue_um2 for e in index.entries}
    expected = areas["large.tif"] / sum(areas.values())
    rng = np.random.default_rng(0)
    for weight, share in (("tissue", expected), ("slide", 0.5)):
        dataset = PatchDataset(index, mpp_range=(2.0, 2.0), weight=weight)
        drawn = [dataset._draw_slide(list(index.entries), rng).slide for _ in range(3000)]
        assert drawn.count("large.tif") / 3000 == pytest.approx(
            share, abs=4 * (share * (1 - share) / 3000) ** 0.5
        )
    assert expected > 0.7
