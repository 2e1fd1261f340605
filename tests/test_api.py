"""The Python interface gives the slides of the commands, before and after they are saved."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

import wsigen
from tests.commands import ROOT
from tests.pipeline.models import small_net
from tests.sampling.upscalers import small_upscaler
from tests.stain.models import small_generator
from tests.synthetic import he_image, write_tiff
from wsigen.config import SampleConfig, TranslateConfig
from wsigen.errors import AmbiguousSlideError, InvalidValueError, OutputError, SnapshotError
from wsigen.geometry import Region
from wsigen.nn.model import save_model
from wsigen.pipeline import sample, translate
from wsigen.pipeline.seeds import slide_mpp
from wsigen.stain.stainer import save_stainer


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "small"
    save_model(folder, denoiser=small_net(), upscaler=small_upscaler())
    return folder


@pytest.fixture(scope="module")
def stainer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stainers") / "SYN"
    save_stainer(small_generator(blocks=0, marker="SYN", mpp=0.5), folder)
    return folder


@pytest.fixture(scope="module")
def sampler(model):
    return wsigen.Sampler.from_pretrained(model, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return write_tiff(tmp_path_factory.mktemp("case") / "case1_HE.tif", he_image(768, seed=2), 0.5, levels=2)


def pixels(slide, side):
    return np.asarray(slide.read_region((0, 0), 0, (side, side)))[..., :3]


def test_a_pair_is_that_of_the_command_before_and_after_it_is_saved(sampler, model, stainer, tmp_path):
    pair = sampler(size=256, stages=2, seed=5, stain=stainer)
    before = pixels(pair.he, 256), pixels(pair.ihc["SYN"], 256)
    assert pair.save(tmp_path / "a", layout="lossless") is pair
    names = ["synthetic-5_HE.ome.tif", "synthetic-5_IHC-SYN.ome.tif"]
    assert [f.slide.name for f in pair.files] == names
    for computed, slide in zip(before, (pair.he, pair.ihc["SYN"]), strict=True):
        np.testing.assert_array_equal(pixels(slide, 256), computed)
    config = SampleConfig(
        size=256,
        stages=2,
        seed=5,
        model=str(model),
        stain=str(stainer),
        out=tmp_path / "b",
        layout="lossless",
        device="cpu",
        dtype="float32",
    )
    sample.sample(config)
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_saving_again_keeps_what_is_there_and_refuses_what_differs(sampler, tmp_path):
    sampler(size=128, stages=1, seed=1).save(tmp_path, name="a")
    written = (tmp_path / "a_HE.ome.tif").stat().st_mtime_ns
    again = sampler(size=128, stages=1, seed=1).save(tmp_path, name="a")
    assert again.files == ()
    assert again.he.dimensions == (128, 128)
    assert (tmp_path / "a_HE.ome.tif").stat().st_mtime_ns == written
    with pytest.raises(OutputError, match="a_HE"):
        sampler(size=128, stages=1, seed=2).save(tmp_path, name="a")
    sampler(size=128, stages=1, seed=2).save(tmp_path, name="a", overwrite=True)
    assert (tmp_path / "a_HE.ome.tif").stat().st_mtime_ns > written


def test_a_wide_pair_whose_scale_follows_from_its_seed(sampler, tmp_path):
    pair = sampler(size=(190, 100), stages=1, seed=4, mpp="0.4-0.6")
    computed, mpp = np.asarray(pair.he.read_region((0, 0), 0, (190, 100))), slide_mpp("0.4-0.6", 4)
    assert pair.he.dimensions == (190, 100)
    assert pair.he.properties["openslide.mpp-x"] == str(mpp)
    assert repr(pair) == "Pair(seed=4, size=190x100, mpp=0.4-0.6, stain=None)"
    saved = pair.save(tmp_path, layout="lossless").he
    assert np.array_equal(np.asarray(saved.read_region((0, 0), 0, (190, 100))), computed)
    assert float(saved.properties["openslide.mpp-x"]) == pytest.approx(mpp)


def test_a_slide_of_diffused_stages_is_read_once_it_is_saved(sampler, tmp_path):
    pair = sampler(size=128, stages=1, preset="fast")
    with pytest.raises(InvalidValueError, match="diffuses stage 1"):
        _ = pair.he
    assert pair.save(tmp_path).he.dimensions == (128, 128)


def test_a_translation_is_that_of_the_command_before_and_after_it_is_saved(stainer, case, tmp_path):
    translator = wsigen.Translator.from_pretrained(stainer, device="cpu", dtype="float32")
    pair = translator(case)
    before = pixels(pair.ihc["SYN"], 768)
    assert pair.he.level_dimensions == ((768, 768), (384, 384))
    assert pair.ihc["SYN"].level_dimensions == pair.he.level_dimensions
    pair.save(tmp_path / "a", layout="lossless")
    np.testing.assert_array_equal(pixels(pair.ihc["SYN"], 768), before)
    translate.translate(
        TranslateConfig(
            slide=case,
            stainer=str(stainer),
            out=tmp_path / "b",
            layout="lossless",
            device="cpu",
            dtype="float32",
        )
    )
    name = "case1_IHC-SYN.ome.tif"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_norm_of_the_whole_slide_is_read_once_it_is_saved(stainer, case, tmp_path):
    pair = wsigen.Translator.from_pretrained(stainer, device="cpu")(case, norm="tin")
    with pytest.raises(InvalidValueError, match="tin"):
        pixels(pair.ihc["SYN"], 64)
    assert pair.save(tmp_path).ihc["SYN"].mpp == 0.5


def test_notebooks_show_a_pair(sampler, stainer):
    shown = sampler(size=128, stages=1, stain=stainer)._repr_html_()
    assert shown.count("data:image/png;base64,") == 2
    assert "H&amp;E" in shown
    assert "SYN" in shown


def test_networks_are_loaded_once(sampler, stainer, monkeypatch):
    sampler(size=128, stages=1, stain=stainer)._computed  # noqa: B018

    def refuse(*_: object) -> None:
        raise AssertionError("loaded again")

    monkeypatch.setattr("wsigen.nn.snapshot.load_snapshot", refuse)
    monkeypatch.setattr("wsigen.nn.model.load_snapshot", refuse)
    assert sampler(size=128, stages=1, seed=9, stain=stainer).he.dimensions == (128, 128)


def test_mistakes_are_named(model, tmp_path):
    with pytest.raises(SnapshotError, match="nowhere"):
        wsigen.Sampler.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(SnapshotError, match="nothing"):
        wsigen.Translator.from_pretrained(tmp_path / "nothing")
    with pytest.raises(InvalidValueError, match="quantum"):
        wsigen.Sampler.from_pretrained(model, device="quantum")
    with pytest.raises(InvalidValueError, match="seed"):
        wsigen.Sampler.from_pretrained(model, device="cpu")(seed=-1)
    with pytest.raises(AttributeError, match="sampler"):
        _ = wsigen.sampler  # pyright: ignore[reportAttributeAccessIssue]


def test_an_evaluation_becomes_a_frame_and_a_report(sampler, tmp_path):
    for seed in range(4):
        sampler(size=256, stages=1, seed=seed).save(tmp_path / ("real" if seed < 2 else "made"))
    report = wsigen.evaluate(
        generated=tmp_path / "made", real=tmp_path / "real", mpp=[0.5], patch=64, patches=32, workers=1
    )
    frame = report.to_frame()
    assert {"set", "measure", "mpp", "value", "low", "high", "floor", "verdict"} <= set(frame.columns)
    assert len(frame) == sum(len(s.results) for s in report.sets)
    assert "fid" in set(frame["measure"])
    report.save(tmp_path / "report")
    with pytest.raises(OutputError, match="exists already"):
        report.save(tmp_path / "report")
    assert {f.name for f in (tmp_path / "report").iterdir()} == {"index.html", "report.json"}


def test_python_of_the_readme_runs_as_it_stands(tmp_path):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    assert len([line for line in code.splitlines() if line and not line.startswith("import")]) <= 6
    # Smaller in every way but the calls: the bundled model takes minutes to make what the page shows.
    small = code.replace("size=2048, stages=5", "size=256, stages=2").replace(
        'real="real"', 'real="slides/*_HE.ome.tif", mpp=[0.5], patch=64, patches=16'
    )
    small = small.replace("x=100, y=100, width=200, height=200", "x=10, y=10, width=20, height=20")
    (tmp_path / "slides").mkdir()
    done = subprocess.run([sys.executable, "-c", small], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report" / "index.html").is_file()
    assert (tmp_path / "translated" / "synthetic-7_IHC-SYN.ome.tif").is_file()


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, wsigen; print([m for m in ('torch', 'numpy', 'diffusers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_everything_public_is_documented():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    for name in set(wsigen.__all__) - {"__version__"}:
        assert f"::: wsigen.{name}\n" in page
        assert getattr(wsigen, name).__doc__


def test_stub_and_package_name_the_same_things():
    stub = (Path(wsigen.__file__).with_suffix(".pyi")).read_text(encoding="utf-8")
    assert all(re.search(rf"\b{name}\b", stub) for name in wsigen.__all__)


def test_of_a_file_of_several_images_one_is_chosen(tmp_path):
    left, right = (he_image(512, seed=seed) for seed in (1, 2))
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        for image in (left, right):
            tiff.write(image, photometric="rgb", tile=(256, 256), metadata=None)
    with pytest.raises(AmbiguousSlideError, match="series= in Python"):
        wsigen.open_slide(path, mpp=0.5)
    slide = wsigen.open_slide(path, mpp=0.5, series=1)
    np.testing.assert_array_equal(slide.read(Region(0, 0, 512, 512)), right)
