"""A part of a slide that is never made is, in a file of its own, that part of the one that is made."""

from __future__ import annotations

import numpy as np
import openslide
import pytest

from tests.pipeline.models import small_net
from tests.sampling.upscalers import small_upscaler
from tests.stain.models import small_generator
from wsigen.config import SampleConfig, parse_region
from wsigen.errors import InvalidValueError, OutputError
from wsigen.geometry import Region
from wsigen.nn.model import save_model
from wsigen.pipeline import levels, sample
from wsigen.pipeline.sample import open_run
from wsigen.slide.provenance import read_provenance
from wsigen.stain.stainer import save_stainer


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    save_model(folder / "small", denoiser=small_net(), upscaler=small_upscaler())
    save_stainer(small_generator(blocks=0, marker="SYN", mpp=0.5), folder / "SYN")
    how = {"size": 1024, "stages": 4, "seed": 2, "model": str(folder / "small"), "preset": "one-step"}
    return {**how, "stain": str(folder / "SYN"), "device": "cpu", "layout": "lossless"}


def pixels(path):
    with openslide.OpenSlide(path) as slide:
        assert slide.properties["openslide.mpp-x"] == "0.5"
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]


@pytest.fixture(scope="module")
def whole(values, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    sample.sample(SampleConfig(**values, out=out, name="a"))
    return pixels(out / "a_HE.ome.tif"), pixels(out / "a_IHC-SYN.ome.tif"), out


def contents(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def test_a_part_and_its_stain(values, whole, tmp_path):
    he, ihc, folder = whole
    files = sample.sample(SampleConfig(**values, out=tmp_path, region="300,101,150,523"))
    names = [f"synthetic-2-x300-y101-150x523_{kind}.ome.tif" for kind in ("HE", "IHC-SYN")]
    assert [file.slide.name for file in files] == names
    for name, expected in zip(names, (he, ihc), strict=True):
        assert np.array_equal(pixels(tmp_path / name), expected[101:624, 300:450])
    assert not list(tmp_path.glob(".*"))
    facts, stained = (read_provenance(tmp_path / name) for name in names)
    place = {"x": 300, "y": 101, "width": 150, "height": 523, "of_width": 1024, "of_height": 1024}
    assert facts["region"] == stained["source"]["region"] == place
    assert (facts["width"], facts["height"], facts["mpp"]) == (150, 523, 0.5)
    assert facts["synthetic"] is stained["synthetic"] is True
    assert facts["fingerprint"] == stained["source"]["fingerprint"]
    assert facts["fingerprint"] != read_provenance(folder / "a_HE.ome.tif")["fingerprint"]
    assert list(facts["pair"]) == [names[1]]


def test_killed_it_goes_on_to_the_same_bytes(values, tmp_path, monkeypatch):
    config = SampleConfig(**values, out=tmp_path / "straight", name="p", region="0,0,70,700")
    sample.sample(config)
    again = SampleConfig(**values, out=tmp_path / "killed", name="p", region="0,0,70,700")
    monkeypatch.setattr(levels, "_STRIP", 64)
    real = sample.region_readers

    def dying(*args):
        def read(region):
            if region.y >= 576:
                raise KeyboardInterrupt
            return readers[0](region)

        readers = real(*args)
        return [read, *readers[1:]]

    monkeypatch.setattr(sample, "region_readers", dying)
    with pytest.raises(KeyboardInterrupt):
        open_run(again).make(block=512)
    assert not (tmp_path / "killed" / "p_HE.ome.tif").exists()
    asked = []

    def watched(*args):
        readers = real(*args)
        return [lambda region: (asked.append(region), readers[0](region))[1], *readers[1:]]

    monkeypatch.setattr(sample, "region_readers", watched)
    open_run(again).make(block=512)
    assert asked[0].y == 512
    assert contents(tmp_path / "killed") == contents(tmp_path / "straight")


def test_several_slides_and_those_that_are_there(values, whole, tmp_path):
    config = SampleConfig(
        **(values | {"stain": None, "seed": 1}), count=2, name="n", out=tmp_path, region="512,256,64,64"
    )
    first, second = sample.sample(config)
    assert [first.slide.name, second.slide.name] == ["n-1_HE.ome.tif", "n-2_HE.ome.tif"]
    assert np.array_equal(pixels(second.slide), whole[0][256:320, 512:576])
    assert not np.array_equal(pixels(first.slide), pixels(second.slide))
    assert sample.sample(config) == []
    alone = SampleConfig(**(values | {"stain": None}), name="n-2", out=tmp_path, region="512,256,64,64")
    with pytest.raises(OutputError, match="exists already"):
        sample.sample(alone)


def test_mistakes_are_named(values, tmp_path):
    with pytest.raises(
        InvalidValueError, match=r"slide, which is 1024 x 1024 px; it reaches .* to \(1030, 64\)"
    ):
        sample.sample(SampleConfig(**values, out=tmp_path, region="1000,0,30,64"))
    with pytest.raises(InvalidValueError, match=r"diffuses stage 4 of 4, 1024 px .*one-step"):
        sample.sample(SampleConfig(**(values | {"preset": "fast"}), out=tmp_path, region="0,0,64,64"))
    assert not list(tmp_path.glob("*.tif"))
    for text in ("1,2,3", "0,0,0,5", "a,b,c,d", "-1,0,5,5"):
        with pytest.raises(InvalidValueError, match="--region must be X,Y,WIDTH,HEIGHT in px"):
            SampleConfig(region=text)
    with pytest.raises(InvalidValueError, match="--dry-run must be left out with --region"):
        SampleConfig(region="0,0,5,5", dry_run=True)
    assert parse_region(" 1, 2,30,40 ") == Region(2, 1, 40, 30)
