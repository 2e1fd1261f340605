"""Patches of a corpus show the pixels of its slides, H&E and IHC of the same place."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

import wsigen
from wsigen.cli import main
from wsigen.config.corpus import ExportCorpusConfig
from wsigen.corpus.dataset import Corpus, CorpusPatches, tissue_places
from wsigen.corpus.export import export
from wsigen.corpus.make import make_corpus
from wsigen.errors import InvalidValueError, OutputError
from wsigen.slide.levels import FileSlide
from wsigen.slide.read import open_slide


@pytest.fixture(scope="module")
def halves(options, overview, tmp_path_factory):
    """Two pairs of 512² at 0.5 µm/px whose right half is glass."""
    out = tmp_path_factory.mktemp("halves") / "two"
    start = {"overview": [str(overview)], "overview_mpp": 2.0, "size": None, "stages": None}
    return make_corpus(options(out, count=2, split="train=1", layout="lossless", **start))


def test_slides_are_read_by_name(corpus):
    found = wsigen.open_corpus(corpus)
    assert list(found) == [f"synthetic-{seed}" for seed in range(4)]
    pair = found["synthetic-2"]
    he = open_slide(corpus / "slides" / "synthetic-2_HE.ome.tif")
    expected = FileSlide(he).read_region((0, 0), 0, (128, 128))
    assert np.array_equal(np.asarray(pair.he.read_region((0, 0), 0, (128, 128))), np.asarray(expected))
    assert pair.ihc["SYN"].dimensions == (128, 128)
    assert repr(found).endswith("train=2, val=2)")
    with pytest.raises(KeyError):
        found["synthetic-9"]


def test_seeds_show_what_their_files_would(corpus, options, tmp_path):
    files = make_corpus(options(tmp_path / "files", count=2, layout="lossless"))
    seeds = make_corpus(options(tmp_path / "seeds", count=2, materialise="none", layout="lossless"))
    for name in ("synthetic-0", "synthetic-1"):
        a, b = Corpus(files, device="cpu")[name], Corpus(seeds, device="cpu")[name]
        for one, other in ((a.he, b.he), (a.ihc["SYN"], b.ihc["SYN"])):
            region = [np.asarray(slide.read_region((32, 16), 0, (64, 64))) for slide in (one, other)]
            assert np.array_equal(*region)


def test_places_are_where_tissue_is(tmp_path):
    picture = np.full((512, 512, 3), 243, np.uint8)
    picture[:, :240] = (150, 80, 160)
    Image.fromarray(picture).save(tmp_path / "he.png")
    slide = FileSlide(open_slide(tmp_path / "he.png", 1.0))
    columns = lambda least: sorted({x for x, _ in tissue_places(slide, 128, 1.0, least)})  # noqa: E731
    assert columns(0.95) == [0]
    assert columns(0.5) == [0, 128]  # 112 of its 128 px
    assert columns(0) == [0, 128, 256, 384]
    assert len(tissue_places(slide, 128, 1.0, 0.5)) == 2 * 4
    assert tissue_places(slide, 600, 1.0, 0) == []


def test_patches_are_the_slides_pixels(halves):
    patches = CorpusPatches(halves, size=64, mpp=0.5)
    assert {name for name, _, _ in patches.places} == {"synthetic-0", "synthetic-1"}
    assert all(x < 320 for _, x, _ in patches.places)
    item = patches[5]
    slide = FileSlide(open_slide(halves / "slides" / f"{item['slide']}_HE.ome.tif"))
    expected = np.asarray(slide.read_region((item["x"], item["y"]), 0, (64, 64)))[..., :3]
    assert np.array_equal(item["he"].permute(1, 2, 0).numpy(), expected)
    assert item["ihc_SYN"].shape == (3, 64, 64)
    coarse = CorpusPatches(halves, size=32, mpp=1.0)
    assert coarse.places == [(n, x // 2, y // 2) for n, x, y in patches.places]
    means = [float(p["he"].float().mean()) for p in (patches[5], coarse[5])]
    assert means[0] == pytest.approx(means[1], abs=0.6)


def test_a_draw_is_seeded_and_loaders_may_use_processes(halves):
    some = CorpusPatches(halves, size=64, count=6, seed=1)
    assert len(some) == 6
    assert some.places == CorpusPatches(halves, size=64, count=6, seed=1).places
    assert some.places != CorpusPatches(halves, size=64, count=6, seed=2).places
    loader = torch.utils.data.DataLoader(some, batch_size=3, num_workers=1)
    batches = list(loader)
    assert torch.equal(torch.cat([b["he"] for b in batches]), torch.stack([some[i]["he"] for i in range(6)]))


def test_what_cannot_be_read_is_named(halves):
    with pytest.raises(InvalidValueError, match="has no split 'val'; it has train"):
        CorpusPatches(halves, split="val")
    with pytest.raises(InvalidValueError, match=r"mpp must be at least 0\.5, that of the slides, got 0\.25"):
        CorpusPatches(halves, mpp=0.25)
    with pytest.raises(InvalidValueError, match=r"no patch of 512 px at 0\.5 µm/px shows 90% tissue"):
        CorpusPatches(halves, size=512, tissue=0.9)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_shards_are_read_by_webdataset(halves, tmp_path):
    webdataset = pytest.importorskip("webdataset")
    config = ExportCorpusConfig(corpus=halves, out=tmp_path / "a", size=64, count=10)
    assert export(config) == {"train": 10}
    (tar,) = (tmp_path / "a").iterdir()
    samples = list(webdataset.WebDataset(str(tar), shardshuffle=False).decode("rgb8"))
    assert len({s["__key__"] for s in samples}) == 10
    patches = CorpusPatches(halves, size=64, count=10)
    by_place = {(p["slide"], p["x"], p["y"]): p for p in (patches[i] for i in range(10))}
    for s in samples:
        patch = by_place[s["json"]["slide"], s["json"]["x"], s["json"]["y"]]
        assert np.array_equal(s["he.png"], patch["he"].permute(1, 2, 0).numpy())
        assert np.array_equal(s["ihc_syn.png"], patch["ihc_SYN"].permute(1, 2, 0).numpy())
    export(ExportCorpusConfig(corpus=halves, out=tmp_path / "b", size=64, count=10))
    assert (tmp_path / "b" / tar.name).read_bytes() == tar.read_bytes()


def test_shards_are_of_the_size_asked_for(halves, tmp_path):
    pytest.importorskip("webdataset")
    export(ExportCorpusConfig(corpus=halves, out=tmp_path / "a", size=64, shard_bytes="100KB"))
    tars = sorted((tmp_path / "a").iterdir())
    assert [tar.name for tar in tars[:2]] == ["train-000000.tar", "train-000001.tar"]
    names = []
    for tar in tars:
        with tarfile.open(tar) as file:
            names += [name for name in file.getnames() if name.endswith("json")]
    assert len(names) == len(set(names)) == len(CorpusPatches(halves, size=64))


def test_a_folder_is_an_image_folder(corpus, tmp_path):
    main.main(
        [
            "corpus",
            "export",
            str(corpus),
            f"--out={tmp_path / 'a'}",
            "--format=folder",
            "--size=64",
            "--tissue=0",
        ]
    )
    lines = [
        json.loads(line) for line in (tmp_path / "a" / "val" / "metadata.jsonl").read_text().splitlines()
    ]
    assert len(lines) == 2 * 4
    line = lines[3]
    assert (line["slide"], line["x"], line["y"], line["split"]) == ("synthetic-1", 64, 64, "val")
    image = Image.open(io.BytesIO((tmp_path / "a" / "val" / line["he_file_name"]).read_bytes()))
    assert image.size == (64, 64)
    assert (tmp_path / "a" / "val" / line["ihc_SYN_file_name"]).is_file()
    with pytest.raises(OutputError, match="is not empty; pass a new folder"):
        export(ExportCorpusConfig(corpus=corpus, out=tmp_path / "a"))


@pytest.mark.parametrize("form", ["dicom", "ome-zarr"])
def test_slides_of_a_corpus_in_other_formats(corpus, tmp_path, form, capsys):
    pytest.importorskip({"dicom": "wsidicom", "ome-zarr": "zarr"}[form])
    main.main(["corpus", "export", str(corpus), f"--out={tmp_path}", f"--format={form}"])
    assert capsys.readouterr().out == f"{tmp_path}: 4 slides of train\n{tmp_path}: 4 slides of val\n"
    suffix = "" if form == "dicom" else ".ome.zarr"
    names = [f"synthetic-{i}_{stain}{suffix}" for i in (1, 3) for stain in ("HE", "IHC-SYN")]
    assert sorted(path.name for path in (tmp_path / "val").iterdir()) == names
    for stain, path in (("HE", names[0]), ("IHC-SYN", names[1])):
        slide = open_slide(tmp_path / "val" / path)
        assert slide.mpp == 0.5
        source = open_slide(corpus / "slides" / f"synthetic-1_{stain}.ome.tif")
        np.testing.assert_array_equal(*(s.read_region(s.size.region, 0.5) for s in (slide, source)))


def test_seeds_are_exported_as_slides(corpus, options, tmp_path):
    pytest.importorskip("wsidicom")
    seeds = make_corpus(options(tmp_path / "seeds", materialise="none", count=2))
    assert export(ExportCorpusConfig(corpus=seeds, out=tmp_path / "out", format="dicom")) == {
        "train": 2,
        "val": 2,
    }
    he, ihc = (
        open_slide(next((tmp_path / "out" / "val" / f"synthetic-1_{s}").iterdir())) for s in ("HE", "IHC-SYN")
    )
    assert (he.mpp, [level.size.width for level in he.levels]) == (0.5, [128, 64, 32])
    pair = Corpus(seeds, device="cpu")["synthetic-1"]
    np.testing.assert_array_equal(he.read_level(he.size.region, 0), pair.he.read(he.size.region))
    np.testing.assert_array_equal(ihc.read_level(he.size.region, 0), pair.ihc["SYN"].read(he.size.region))


def test_options_of_patches_are_refused_for_whole_slides(corpus):
    with pytest.raises(InvalidValueError, match="--size must be left out with --format dicom: no patches"):
        ExportCorpusConfig(corpus=corpus, format="dicom", size=64)
