"""Slides of a class: other pixels, the same recipe everywhere, and no mixing of classes in a folder."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

import wsigen
from tests.pipeline.models import small_job, small_net
from tests.sampling.upscalers import small_upscaler
from tests.synthetic import he_image, write_tiff
from wsigen.cli import main
from wsigen.config import SampleConfig
from wsigen.config.corpus import CorpusConfig
from wsigen.corpus.make import make_corpus
from wsigen.corpus.manifest import read_manifest
from wsigen.errors import InvalidValueError, OutputError
from wsigen.nn.model import save_model
from wsigen.pipeline.sample import open_run


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """Of two classes."""
    folder = tmp_path_factory.mktemp("model") / "small"
    save_model(folder, denoiser=small_net(("liver", "skin")), upscaler=small_upscaler())
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """Without classes."""
    folder = tmp_path_factory.mktemp("plain") / "small"
    save_model(folder, denoiser=small_net(), upscaler=small_upscaler())
    return folder


@pytest.fixture
def sample(model, tmp_path):
    """Run ``sample`` on a small slide."""

    def run(*flags: object, model: Path = model, out: Path = tmp_path / "out") -> Path:
        small = ["--size=64", "--stages=2", "--dtype=float32", "--device=cpu", "--layout=lossless"]
        main.sample([*small, f"--model={model}", f"--out={out}", *map(str, flags)])
        return out

    return run


@pytest.fixture
def refusal(sample, capsys):
    """Run ``sample``, expect it to refuse, and return what it says."""

    def run(*flags: object, **kwargs: Path) -> str:
        with pytest.raises(SystemExit) as stopped:
            sample(*flags, **kwargs)
        assert stopped.value.code == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
        return line

    return run


def facts(out: Path, seed: int = 0) -> dict[str, object]:
    return json.loads((out / f"synthetic-{seed}_HE.json").read_text())


def test_slide_has_a_class_and_says_so(sample, tmp_path):
    pixels, prints = {}, set()
    for label in ("liver", "skin", None):
        flags = [] if label is None else ["--class", label]
        out = sample(*flags, out=tmp_path / str(label))
        pixels[label] = tifffile.imread(out / "synthetic-0_HE.ome.tif").astype(int)
        assert facts(out).get("class") == label
        prints.add(facts(out)["fingerprint"])
    assert len(prints) == 3
    assert np.abs(pixels["liver"] - pixels["skin"]).max() > 2
    assert np.abs(pixels["liver"] - pixels[None]).max() > 2
    guided = sample("--class=liver", "--guidance", 3, out=tmp_path / "guided")
    assert (facts(guided)["class"], facts(guided)["guidance"]) == ("liver", 3.0)
    stronger = tifffile.imread(guided / "synthetic-0_HE.ome.tif").astype(int)
    assert np.abs(stronger - pixels["liver"]).max() > 2


def test_weights_that_learnt_no_classes_yet_make_the_slides_of_before(plain, sample, tmp_path):
    net = small_net(("liver",))
    net.load_state_dict(small_net().state_dict(), strict=False)
    net.class_embedding.weight.zero_()
    save_model(tmp_path / "zero", denoiser=net, upscaler=small_upscaler())
    slides = [sample(model=plain), sample("--class=liver", model=tmp_path / "zero", out=tmp_path / "of")]
    one, other = (tifffile.imread(out / "synthetic-0_HE.ome.tif") for out in slides)
    np.testing.assert_array_equal(one, other)
    assert "class" not in facts(slides[0])


def test_table_of_several_slides_names_the_class(sample):
    out = sample("--class=skin", "--count=2")
    rows = list(csv.DictReader((out / "synthetic.csv").read_text().splitlines()))
    assert [row["class"] for row in rows] == ["skin", "skin"]


def test_interfaces_give_the_pixels_of_the_command(sample, model):
    saved = tifffile.imread(sample("--class=skin", "--guidance=2") / "synthetic-0_HE.ome.tif")
    sampler = wsigen.Sampler.from_pretrained(model, device="cpu", dtype="float32")
    assert sampler.classes == ("liver", "skin")
    of = {"size": 64, "stages": 2, "class_label": "skin", "guidance": 2.0}
    slides = [
        sampler(**of).he,
        wsigen.SyntheticSlide(seed=0, model=model, device="cpu", dtype="float32", **of),
    ]
    for slide in slides:
        np.testing.assert_array_equal(np.asarray(slide.read_region((0, 0), 0, (64, 64)))[..., :3], saved)
    assert slides[1].properties["wsigen.class"] == "skin"


def test_unfinished_slide_of_a_class_is_continued_as_that_alone(tmp_path):
    liver, skin = (small_job(tmp_path, class_label=label) for label in ("liver", "skin"))
    stronger = small_job(tmp_path, class_label="liver", guidance=2.0)
    liver.open_journal()
    liver.open_journal()
    for other in (skin, stronger, small_job(tmp_path)):
        with pytest.raises(OutputError, match="another"):
            other.open_journal()


def test_finished_slide_of_another_class_is_in_the_way(sample, refusal):
    sample("--class=liver")
    assert "exists already" in refusal("--class=skin")


def test_plan_says_that_guidance_takes_two_evaluations(model, tmp_path):
    of = {"size": 64, "stages": 2, "model": str(model), "device": "cpu", "out": tmp_path}
    for guidance, text in ((1.0, "ms each on cpu"), (2.0, "ms each with and without class on cpu")):
        config = SampleConfig(**of, class_label="skin", guidance=guidance)
        assert text in open_run(config).describe()


def test_mistakes_are_named(refusal, model, plain, tmp_path):
    assert "class must be one of liver, skin, got 'Livers'; did you mean 'liver'?" in refusal(
        "--class=Livers"
    )
    assert "class 'liver': this model has no classes" in refusal("--class=liver", model=plain)
    assert "--guidance must be given with --class, or left out, got 2.0" in refusal("--guidance=2")
    assert "--guidance must be a positive number, got 0.0" in refusal("--class=skin", "--guidance=0")
    overview = write_tiff(tmp_path / "he.tif", he_image(64, mpp=2.0), 2.0)
    with pytest.raises(InvalidValueError, match=r"--class skin has no effect: --preset one-step"):
        open_run(SampleConfig(model=str(model), overview=overview, class_label="skin"))


def test_corpus_lists_the_classes_of_its_slides(model, tmp_path):
    small = {"size": 64, "stages": 2, "count": 4, "split": "train=0.5,val=0.5", "workers": 1, "device": "cpu"}
    config = CorpusConfig(
        out=tmp_path / "c", model=str(model), classes="skin,liver", dtype="float32", **small
    )
    out = make_corpus(config)
    table = read_manifest(out)
    assert table["class"].tolist() == ["skin", "skin", "liver", "liver"]
    assert [facts(out / "slides", seed)["class"] for seed in table.seed] == table["class"].tolist()
    assert "Classes: liver 2, skin 2." in (out / "README.md").read_text()
    again = read_manifest(make_corpus(config))
    assert again.equals(table)
    seeds = CorpusConfig(
        out=tmp_path / "s", model=str(model), classes="skin", materialise="none", dtype="float32", **small
    )
    slide = wsigen.open_corpus(make_corpus(seeds), device="cpu")["synthetic-0"].he
    assert slide.properties["wsigen.class"] == "skin"
