"""Labels lie where nuclei were planted, each once, and say which are positive."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import tifffile
from shapely.geometry import shape

from tests.synthetic import write_tiff
from wsigen.cli import main
from wsigen.config.corpus import LabelCorpusConfig
from wsigen.corpus import labels
from wsigen.corpus.dataset import CorpusPair
from wsigen.corpus.labels import NUCLEUS, TISSUE, label_corpus, label_slide, outlines
from wsigen.corpus.make import make_corpus
from wsigen.errors import InvalidValueError
from wsigen.slide.levels import FileSlide
from wsigen.slide.read import open_slide

CENTRES = [(x, y) for y in range(40, 400, 60) for x in range(40, 300, 60)]
RADIUS = 9


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A slide of 512² at 0.5 µm/px with tissue on the left; nuclei of the upper half are positive."""
    folder = tmp_path_factory.mktemp("planted")
    he = np.full((512, 512, 3), 243, np.uint8)
    he[:, :352] = (225, 170, 205)
    ihc = he.copy()
    ihc[:, :352] = (225, 225, 230)
    for x, y in CENTRES:
        cv2.circle(he, (x, y), RADIUS, (95, 60, 140), -1)
        cv2.circle(ihc, (x, y), RADIUS, (120, 75, 40) if y < 200 else (140, 150, 200), -1)
    files = [
        write_tiff(folder / name, image, 0.5, compression="zstd")
        for name, image in (("a_HE.tif", he), ("a_IHC-SYN.tif", ihc))
    ]
    slides = [FileSlide(open_slide(file)) for file in files]
    return CorpusPair(he=slides[0], ihc={"SYN": slides[1]})


@pytest.fixture
def labelled(pair, tmp_path):
    label_slide(pair, ["SYN"], tmp_path / "a.geojson", positive=0.2)
    features = json.loads((tmp_path / "a.geojson").read_text())["features"]
    return features, tifffile.imread(tmp_path / "a_mask.tif"), tmp_path


def test_every_planted_nucleus_is_outlined_once(labelled):
    features, _, folder = labelled
    nuclei = [f for f in features if f["properties"]["objectType"] == "detection"]
    assert len(nuclei) == len(CENTRES)
    found = {tuple(round(c / 4) for c in shape(f["geometry"]).centroid.coords[0]) for f in nuclei}
    assert found == {(round((x + 0.5) / 4), round((y + 0.5) / 4)) for x, y in CENTRES}
    for f in nuclei:
        polygon = shape(f["geometry"])
        assert polygon.is_valid
        area = f["properties"]["measurements"]["Nucleus: Area µm^2"]
        assert area == pytest.approx(np.pi * (RADIUS + 0.5) ** 2 / 4, rel=0.2)
        assert polygon.area / 4 == pytest.approx(area, rel=0.05)
    assert len({f["id"] for f in features}) == len(features)
    assert not list(folder.glob("*.partial"))


def test_nuclei_are_positive_by_the_ihc_slide(labelled):
    features, _, _ = labelled
    for f in features:
        if f["properties"]["objectType"] == "detection":
            _, y = shape(f["geometry"]).centroid.coords[0]
            properties = f["properties"]
            assert properties["classification"]["name"] == ("Positive" if y < 200 else "Negative")
            assert (properties["measurements"]["Nucleus: SYN DAB OD mean"] >= 0.2) == (y < 200)


def test_tissue_is_outlined_and_masked(labelled):
    features, mask, _ = labelled
    (tissue,) = [f for f in features if f["properties"]["classification"]["name"] == "Tissue"]
    assert tissue["properties"]["objectType"] == "annotation"
    assert shape(tissue["geometry"]).bounds == pytest.approx((0, 0, 352, 512), abs=20)
    assert mask.shape == (512, 512)
    assert mask[20, 20] == TISSUE
    assert mask[20, 500] == 0
    assert all(mask[y, x] == NUCLEUS for x, y in CENTRES)
    assert (mask == NUCLEUS).sum() == pytest.approx(len(CENTRES) * np.pi * (RADIUS + 0.5) ** 2, rel=0.2)


def test_tiles_do_not_matter(pair, labelled, tmp_path, monkeypatch):
    features, mask, _ = labelled
    monkeypatch.setattr(labels, "TILE", 100)  # many nuclei lie across the edges of such tiles
    label_slide(pair, ["SYN"], tmp_path / "b.geojson", positive=0.2)
    others = json.loads((tmp_path / "b.geojson").read_text())["features"]
    outline = lambda f: json.dumps(f["geometry"])  # noqa: E731
    assert sorted(map(outline, others)) == sorted(map(outline, features))
    assert np.array_equal(tifffile.imread(tmp_path / "b_mask.tif"), mask)


def test_outlines_follow_the_edges_of_pixels():
    mask = np.zeros((8, 8), bool)
    mask[2:5, 3:7] = True
    mask[3, 4] = False  # a hole is no outer outline
    (outline,) = outlines(mask)
    assert (outline.min(0).tolist(), outline.max(0).tolist()) == ([3, 2], [7, 5])
    assert shape({"type": "Polygon", "coordinates": [outline.tolist()]}).area == pytest.approx(12, abs=0.6)
    assert outlines(np.zeros((4, 4), bool)) == []


def test_a_corpus_is_labelled_and_its_coco_agrees(options, overview, tmp_path, capsys):
    start = {"overview": [str(overview)], "overview_mpp": 2.0, "size": None, "stages": None}
    out = make_corpus(options(tmp_path / "two", count=2, split="train=1", **start))
    counts = label_corpus(LabelCorpusConfig(corpus=out))
    coco = json.loads((out / "labels" / "train.coco.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == [
        f"../slides/synthetic-{i}_HE.ome.tif" for i in (0, 1)
    ]
    assert len(coco["annotations"]) == sum(counts.values()) > 20
    for annotation in coco["annotations"][:20]:
        x, _, width, height = annotation["bbox"]
        assert 0 < annotation["area"] <= width * height
        assert x + width < 300
    before = (out / "labels" / "synthetic-0.geojson").stat().st_mtime_ns
    main.main(["corpus", "label", str(out)])
    assert f"{sum(counts.values())} nuclei in 2 slides" in capsys.readouterr().out
    assert (out / "labels" / "synthetic-0.geojson").stat().st_mtime_ns == before


def test_seeds_and_coarse_slides_are_refused(options, tmp_path):
    out = make_corpus(options(tmp_path / "seeds", count=2, materialise="none", stain=None))
    with pytest.raises(InvalidValueError, match="labels need files: make it with --materialise all"):
        label_corpus(LabelCorpusConfig(corpus=out))
    out = make_corpus(options(tmp_path / "coarse", count=2, mpp=2.0, stain=None))
    with pytest.raises(InvalidValueError, match="has slides of 2 µm/px; nuclei need at most 1"):
        label_corpus(LabelCorpusConfig(corpus=out))
