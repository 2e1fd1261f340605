"""A study is balanced, from tissue, and nothing but the pixels tells where an image is from."""

from __future__ import annotations

import csv
import io
import json
import re
import struct
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tests.study.studies import MPP, SIZE, config, is_real, write_set, write_sources
from tests.synthetic import he_image, write_tiff
from wsigen.cli import main
from wsigen.config.study import StudyMakeConfig
from wsigen.errors import InvalidValueError, OutputError, SlideError
from wsigen.slide.provenance import complete_provenance, provenance_json
from wsigen.slide.read import open_slide
from wsigen.study.automatic import read_image
from wsigen.study.make import make_study
from wsigen.study.store import AnswerStore
from wsigen.study.study import load_key, load_study


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    return {
        "real": write_set(folder, "real", odd=True),
        "synthetic": write_set(folder, "made", odd=False),
    }


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    return write_sources(tmp_path_factory.mktemp("sources"), methods=3)


@pytest.fixture(scope="module")
def slider(slides, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "study"
    return make_study(config(**slides, out=out, count=12, training=4, repeats=4))


def test_half_are_real_and_the_key_says_which(slider):
    key = load_key(slider)
    truths = {i.code: key["items"][i.code] for i in (*slider.items, *slider.training)}
    assert [list(truths.values()).count(t) for t in ("real", "synthetic")] == [8, 8]
    assert [key["items"][i.code] for i in slider.items].count("real") == 6
    assert [i.solution for i in slider.training] == [truths[i.code] for i in slider.training]
    assert all(i.solution is None for i in slider.items)
    for item in (*slider.items, *slider.training):
        (code,) = item.images
        assert is_real(read_image(slider, code)) == (truths[item.code] == "real")
    assert [truths[code] for code in slider.repeats].count("real") == 2
    assert len(set(slider.repeats)) == 4
    assert set(slider.repeats) <= {i.code for i in slider.items}


def test_an_image_is_the_region_of_its_slide_that_the_key_names(slider):
    for code, origin in load_key(slider)["images"].items():
        slide = open_slide(origin["slide"])
        expected = slide.read_patch((origin["y_um"], origin["x_um"]), MPP, SIZE)
        assert np.array_equal(read_image(slider, code), expected)


def test_regions_lie_on_tissue_and_apart(slider):
    origins = list(load_key(slider)["images"].values())
    assert {sum(o["slide"] == s for o in origins) for s in {o["slide"] for o in origins}} == {4}
    for i, a in enumerate(origins):
        for b in origins[:i]:
            apart = max(abs(a["y_um"] - b["y_um"]), abs(a["x_um"] - b["x_um"])) >= SIZE * MPP
            assert apart or a["slide"] != b["slide"]
    for code in load_key(slider)["images"]:
        assert read_image(slider, code).mean() < 235  # glass is 243


def test_files_are_alike_and_say_nothing(slider):
    paths = sorted((slider.folder / "images").iterdir())
    assert len(paths) == 16
    kinds = set()
    for path in paths:
        assert re.fullmatch(r"[0-9a-f]{16}\.png", path.name)
        data, chunks = path.read_bytes(), []
        at = 8
        while at < len(data):
            (length,) = struct.unpack(">I", data[at : at + 4])
            chunks.append(data[at + 4 : at + 8])
            at += 12 + length
        assert set(chunks) == {b"IHDR", b"IDAT", b"IEND"}  # no text, no time, no profile
        with Image.open(path) as image:
            kinds.add((image.format, image.size, image.mode, image.info.get("dpi")))
    assert kinds == {("PNG", (SIZE, SIZE), "RGB", None)}
    served = (slider.folder / "study.json").read_text()
    assert not re.search(r"tif|real0|made0", served)


def test_order_depends_on_the_reader_and_repeats_come_later(slider):
    loaded = load_study(slider.folder)
    assert loaded == slider
    orders_of = {reader: loaded.trials(reader) for reader in loaded.readers}
    orders = {tuple(t.item.code for t in trials) for trials in orders_of.values()}
    assert len(orders) == 3
    for reader, trials in orders_of.items():
        assert trials == slider.trials(reader)
        assert [t.number for t in trials] == list(range(20))
        assert [t.training for t in trials] == [True] * 4 + [False] * 16
        assert {t.item for t in trials} == {*slider.items, *slider.training}
        first = {t.item.code: t.number for t in trials if t.showing == 1}
        again = {t.item.code: t.number for t in trials if t.showing == 2}
        assert again.keys() == set(slider.repeats)
        assert all(n - first[code] >= 3 for code, n in again.items())


@pytest.mark.parametrize(("repeats", "gap"), [(0, 3), (4, 3), (9, 3), (10, 2), (12, 1)])
def test_repeats_are_apart_for_every_reader_and_number(slider, repeats, gap):
    codes = tuple(item.code for item in slider.items[:repeats])
    study = replace(slider, repeats=codes, training=())
    for reader in map(str, range(40)):
        trials = study.trials(reader)
        assert len({(t.item.code, t.showing) for t in trials}) == len(trials) == 12 + repeats
        numbers = {(t.item.code, t.showing): t.number for t in trials}
        assert all(numbers[code, 2] - numbers[code, 1] >= gap for code in codes)


def test_readers_have_codes_of_their_own(slider):
    rows = list(csv.DictReader(io.StringIO((slider.folder / "readers.csv").read_text())))
    assert [r["reader"] for r in rows] == ["1", "2", "3"]
    assert tuple(r["code"] for r in rows) == slider.readers
    assert len({r["code"] for r in rows}) == 3


def test_places_follow_from_the_seed_and_codes_do_not(slides, tmp_path):
    one, same, other = (
        make_study(config(**slides, out=tmp_path / name, count=4, seed=seed))
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    places = [
        sorted((o["slide"], o["y_um"], o["x_um"]) for o in load_key(s)["images"].values())
        for s in (one, same, other)
    ]
    assert places[0] == places[1] != places[2]
    assert not set(one.readers) & set(same.readers)
    assert not {i.code for i in one.items} & {i.code for i in same.items}


def test_2afc_has_one_real_image_an_item_on_either_side(slides, tmp_path):
    study = make_study(config(**slides, out=tmp_path / "s", kind="2afc", count=10))
    key, sides = load_key(study)["items"], []
    assert study.seconds == 10
    for item in study.items:
        kinds = [is_real(read_image(study, code)) for code in item.images]
        assert sorted(kinds) == [False, True]
        assert key[item.code] == item.images[kinds.index(True)]
    for reader in study.readers:
        sides += [t.choices.index(key[t.item.code]) for t in study.trials(reader)]
    assert 5 < sum(sides) < 25  # of 30


def test_quality_shows_one_place_by_every_method(sources, tmp_path):
    he, translated = sources
    given = [f"{name}={path}" for name, paths in translated.items() for path in paths]
    study = make_study(
        StudyMakeConfig(
            kind="quality", source=he, translation=given, out=tmp_path / "s", count=5, mpp=MPP, size=SIZE
        )
    )
    assert study.seconds == 30
    assert len(study.questions) == 3
    images = load_key(study)["images"]
    for item in study.items:
        source, *stained = (read_image(study, code).astype(int) for code in item.images)
        assert [images[c]["set"] for c in item.images] == ["source", "m0", "m1", "m2"]
        for k, image in enumerate(stained):
            assert np.array_equal(image, np.maximum(255 - source - 20 * k, 0))
    orders = {tuple(images[c]["set"] for c in t.choices) for r in study.readers for t in study.trials(r)}
    assert len(orders) > 3
    assert all("source" not in order for order in orders)


def test_paired_has_half_the_ihc_images_from_another_place_of_the_slide(sources, tmp_path):
    he, translated = sources
    study = make_study(
        StudyMakeConfig(
            kind="paired", source=he, translation=translated["m0"], out=tmp_path / "s", count=8, training=4,
            mpp=MPP, size=SIZE,
        )
    )  # fmt: skip
    key = load_key(study)
    for items, half in ((study.items, 4), (study.training, 2)):
        assert [key["items"][i.code] for i in items].count(True) == half
    for item in (*study.items, *study.training):
        source, ihc = (read_image(study, code) for code in item.images)
        assert np.array_equal(ihc, 255 - source) == key["items"][item.code]
    shown = [code for item in (*study.items, *study.training) for code in item.images]
    assert len(set(shown)) == len(shown) == 24
    wrong = [i.images for i in study.items if not key["items"][i.code]]
    case = [[key["images"][c]["slide"].rpartition("/")[2][:2] for c in images] for images in wrong]
    assert sum(a == b for a, b in case) >= 2


def test_whole_slides_are_shown_in_the_middle(slides, tmp_path):
    study = make_study(config(**slides, out=tmp_path / "s", count=4, whole_slides=True, mpp=8, size=96))
    for item in study.items:
        image = read_image(study, item.images[0])
        assert image.shape == (96, 96, 3)
        middle = image[16:80, 16:80]  # 1024 px of 0.5 µm/px are 64 of 8
        assert middle.mean() < image.mean()
        border = np.concatenate([image[:16].reshape(-1, 3), image[80:].reshape(-1, 3)])
        assert border.std(axis=0).max() == 0
    with pytest.raises(InvalidValueError, match="whole slides that fit 96 px at 4 µm/px"):
        make_study(config(**slides, out=tmp_path / "t", count=4, whole_slides=True, mpp=4, size=96))


# ---- mistakes


def test_fewer_regions_than_asked_for_name_what_there_is(slides, tmp_path):
    with pytest.raises(InvalidValueError) as caught:
        make_study(config(**slides, out=tmp_path / "s", count=40, training=4, size=256))
    said = re.fullmatch(
        r"--real gives (\d+) separate regions of 256 px at 0\.5 µm/px with tissue on at least half; "
        r"--count 40 and --training 4 need 22; give more slides, a smaller --size or --count (\d+)",
        str(caught.value),
    )
    assert said
    assert int(said[2]) == 2 * int(said[1]) - 4
    assert list(tmp_path.iterdir()) == []  # nothing half done


def test_sets_that_cannot_be_compared_are_refused(slides, tmp_path):
    out = tmp_path / "s"
    with pytest.raises(InvalidValueError, match=r"--count must be even.* such as 8, got 7"):
        config(**slides, out=out, count=7)
    with pytest.raises(InvalidValueError, match=r"--synthetic must be slides .* --kind slider, got None"):
        StudyMakeConfig(real="a", out=out)
    with pytest.raises(InvalidValueError, match=r"--real must be left out with --kind quality"):
        StudyMakeConfig(kind="quality", real="a", source="a", translation=["a=b", "c=d"])
    with pytest.raises(InvalidValueError, match="at least 2 methods"):
        StudyMakeConfig(kind="quality", source="a", translation="a=b")
    with pytest.raises(SlideError, match="is given as --real and as --synthetic"):
        make_study(config(slides["real"], slides["real"], out=out))
    with pytest.raises(InvalidValueError, match=r"--real gives 0 separate regions .* at 0\.25 µm/px"):
        make_study(config(**slides, out=out, mpp=0.25))
    made = write_tiff(tmp_path / "x_HE.ome.tif", he_image(256, seed=3), MPP, levels=1)
    (tmp_path / "x_HE.json").write_bytes(provenance_json(complete_provenance({}, MPP, 256, 256)))
    with pytest.raises(SlideError, match="is synthetic by its provenance, given as --real"):
        make_study(config([str(made)], slides["synthetic"], out=out))


def test_translations_that_do_not_fit_are_named(sources, slides, tmp_path):
    he, _ = sources
    values = {"kind": "paired", "out": tmp_path / "s", "count": 4, "mpp": MPP, "size": SIZE}
    with pytest.raises(InvalidValueError, match=r"no slide of --source has .* IHC \(made0, made1\)"):
        make_study(StudyMakeConfig(source=he, translation=slides["synthetic"], **values))
    write_tiff(tmp_path / "s0_IHC-X.ome.tif", he_image(256, seed=3), MPP, levels=1)
    with pytest.raises(InvalidValueError, match=r"s0_IHC-X.*does not belong to .*s0_HE"):
        make_study(StudyMakeConfig(source=he, translation=str(tmp_path / "s0_IHC-X.ome.tif"), **values))


def test_no_slides_is_one_line(tmp_path, capsys):
    given = ["--real", str(tmp_path / "none"), "--synthetic", str(tmp_path)]
    with pytest.raises(SystemExit) as caught:
        main.main(["study", "make", *given])
    assert caught.value.code == 2
    assert "none: no such file or folder" in capsys.readouterr().err.splitlines()[-1]


def test_answers_are_never_replaced(slides, tmp_path):
    how = config(**slides, out=tmp_path / "s", count=4)
    make_study(how)
    with pytest.raises(OutputError, match="--overwrite"):
        make_study(how)
    again = config(**slides, out=tmp_path / "s", count=2, overwrite=True)
    study = make_study(again)
    assert len(study.items) == 2
    store = AnswerStore(study)
    store.show(study.readers[0])
    store.add(study.readers[0], 0, 70, 1.0)
    store.close()
    with pytest.raises(OutputError, match="readers have answered"):
        make_study(again)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="exists and is no study"):
        make_study(config(**slides, out=tmp_path / "other", overwrite=True))
    assert (tmp_path / "other" / "thesis.txt").read_text() == "mine"


def test_the_command_makes_a_study(slides, tmp_path, caplog):
    out, sets = tmp_path / "s", [w for name in ("real", "synthetic") for w in (f"--{name}", *slides[name])]
    with caplog.at_level("INFO"):
        main.main(
            ["study", "make", *sets, "--out", str(out), "--count", "4", "--size", "64", "--readers", "2"]
        )
    assert "slider study of 4 items, 0 for training, 0 repeated, 2 readers" in caplog.text
    assert json.loads((out / "study.json").read_text())["version"] == 1
