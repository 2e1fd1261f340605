"""An H&E slide and its IHC slide: the same grid, the translator's pixels, interrupted or not."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from dataclasses import replace

import numpy as np
import openslide
import pytest
import tifffile
import torch

import wsigen
from tests.pipeline.test_source import png
from tests.stain.models import small_generator
from tests.synthetic import he_image, reduce_by, write_dicom, write_tiff, write_zarr
from wsigen.config import TranslateConfig
from wsigen.errors import AmbiguousSlideError, InvalidValueError, MissingMppError, OutputError, SlideError
from wsigen.geometry import Size
from wsigen.pipeline.background import slide_background
from wsigen.pipeline.networks import Networks
from wsigen.pipeline.translate import open_run, translate
from wsigen.slide.levels import FileSlide
from wsigen.slide.read import open_slide
from wsigen.stain.stainer import save_stainer

SIDE = (2400, 64)


@pytest.fixture(scope="module")
def picture():
    return he_image(SIDE, seed=3)


@pytest.fixture(scope="module")
def slide(picture, tmp_path_factory):
    """Lossless, so that what was translated is known."""
    path = tmp_path_factory.mktemp("he") / "case_HE.tif"
    return write_tiff(path, picture, 0.5, levels=2, compression="zstd")


@pytest.fixture(scope="module")
def stainers(tmp_path_factory):
    """Two snapshots with commas between them."""
    folder = tmp_path_factory.mktemp("stainers")
    for seed, marker in enumerate(("SYN", "CGA")):
        save_stainer(small_generator(blocks=1, seed=seed, marker=marker, mpp=0.5), folder / marker)
    return [str(folder / "SYN"), str(folder / "CGA")]


@pytest.fixture
def config(slide, stainers, tmp_path):
    return TranslateConfig(
        slide=slide, stainer=stainers[0], out=tmp_path / "out", layout="lossless", dtype="float32", tile=256
    )


def pixels(path):
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]


def contents(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file()}


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def straight(config, image):
    """What the generators make of the whole picture at once."""
    translation = open_run(config)
    glass = slide_background(open_slide(config.slide, config.mpp))
    size = Size(*image.shape[:2])
    translator = translation.stainers.begin(size, glass.map, read=lambda r: image[r.y : r.y1, r.x : r.x1])
    parts = [[] for _ in translation.stainers.nets]
    for which, rows in translator.push(image):
        parts[which].append(rows)
    return [np.concatenate(rows) for rows in parts]


def test_the_ihc_slide_has_the_grid_of_the_slide_and_the_pixels_of_the_translator(config, picture):
    (files,) = translate(config)
    assert names(config.out) == [f"case_IHC-SYN.{e}" for e in ("jpg", "json", "ome.tif")]
    with openslide.OpenSlide(files.slide) as ihc:
        assert ihc.dimensions == (SIDE[1], SIDE[0])
        assert ihc.level_count == 1
        assert float(ihc.properties["openslide.mpp-x"]) == pytest.approx(0.5)
    (wanted,) = straight(config, picture)
    assert np.array_equal(pixels(files.slide), wanted)
    assert (wanted != picture).any()
    facts = json.loads(files.provenance.read_text())
    assert (facts["marker"], facts["synthetic"]) == ("SYN", True)
    assert facts["source"]["slide"] == "case_HE.tif"


def test_several_stains_in_one_pass_are_those_of_each_alone(config, stainers, picture, tmp_path):
    both = translate(replace(config, stainer=",".join(stainers)))
    assert [f.slide.name for f in both] == ["case_IHC-SYN.ome.tif", "case_IHC-CGA.ome.tif"]
    for which, stainer in enumerate(stainers):
        (alone,) = translate(replace(config, stainer=stainer, out=tmp_path / str(which)))
        assert alone.slide.read_bytes() == both[which].slide.read_bytes()
    assert not np.array_equal(pixels(both[0].slide), pixels(both[1].slide))


def test_of_several_those_that_are_there_are_left(config, stainers):
    translate(config)
    kept = contents(config.out)
    files = translate(replace(config, stainer=",".join(stainers)))
    assert [f.slide.name for f in files] == ["case_IHC-CGA.ome.tif"]
    assert kept.items() <= contents(config.out).items()
    assert translate(replace(config, stainer=",".join(stainers))) == []


class Stop(Exception):
    """Stands for a run that ends."""


def stop_after(rows):
    def progress(done):
        if done >= rows:
            raise Stop

    return progress


def render(config, **options):
    return open_run(config).make(block=512, **options)


@pytest.mark.parametrize("rows", [1, 2048, 2400])
def test_interrupted_anywhere_it_goes_on_to_the_same_bytes(config, rows, tmp_path):
    render(config)
    other = replace(config, out=tmp_path / "stopped")
    with pytest.raises(Stop):
        render(other, progress=stop_after(rows))
    assert names(other.out) == [".case_IHC-SYN.partial"]
    (ihc,) = open_run(other).outputs
    assert ihc.open_journal(block=512).rows_done == (0 if rows == 1 else 512 if rows == 2048 else 2400)
    render(other)
    assert contents(other.out) == contents(config.out)
    assert names(other.out) == names(config.out)


def test_a_masked_slide_goes_on_to_the_same_bytes(config, tmp_path):
    stripes = np.zeros((240, 1), np.uint8)
    stripes[::3] = 1
    masked = replace(config, mask=png(tmp_path / "mask.png", np.repeat(stripes, 6, axis=1)))
    render(masked)
    other = replace(masked, out=tmp_path / "stopped")
    with pytest.raises(Stop):
        render(other, progress=stop_after(2048))
    assert open_run(other).outputs[0].open_journal(block=512).rows_done == 512
    render(other)
    assert contents(other.out) == contents(masked.out)
    found = pixels(masked.out / "case_IHC-SYN.ome.tif").reshape(240, 10, 64, 3)
    assert np.ptp(found[stripes[:, 0] == 0], axis=(0, 1, 2)).max() == 0
    assert np.ptp(found[stripes[:, 0] == 1], axis=(0, 1, 2)).min() > 50


def test_stains_that_came_differently_far(config, stainers, tmp_path):
    both = replace(config, stainer=",".join(stainers))
    render(both)
    other = replace(both, out=tmp_path / "stopped")
    with pytest.raises(Stop):
        render(replace(other, stainer=stainers[1]), progress=stop_after(2048))
    render(other)
    assert contents(other.out) == contents(both.out)


def _child(config, threads):
    torch.set_num_threads(threads)  # as many as its parent: sums over other shares round otherwise

    def die(done):
        if list(config.out.glob(".case_IHC-SYN.partial/rows/*.block")):
            os.kill(os.getpid(), signal.SIGKILL)

    render(config, progress=die)


def test_killed_it_goes_on_to_the_same_bytes(config, tmp_path):
    render(config)
    other = replace(config, out=tmp_path / "killed")
    child = multiprocessing.get_context("spawn").Process(target=_child, args=(other, torch.get_num_threads()))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert list(other.out.glob(".case_IHC-SYN.partial/rows/*.block"))
    render(other)
    assert contents(other.out) == contents(config.out)


def test_an_existing_slide_is_kept_unless_asked(config, stainers):
    translate(config)
    with pytest.raises(OutputError, match="exists already; pass --overwrite"):
        translate(config)
    before = contents(config.out)
    translate(replace(config, overwrite=True))
    assert contents(config.out) == before
    translate(replace(config, stainer=stainers[1], marker="SYN", overwrite=True))
    assert contents(config.out) != before


def test_killed_while_tidying_up(config):
    translate(config)
    (config.out / ".case_IHC-SYN.partial").mkdir()
    assert translate(config) == []
    assert names(config.out) == [f"case_IHC-SYN.{e}" for e in ("jpg", "json", "ome.tif")]


def test_state_of_another_slide_is_not_continued(config, tmp_path, picture):
    with pytest.raises(Stop):
        render(config, progress=stop_after(2048))
    other = write_tiff(tmp_path / "case_HE.tif", picture[::-1].copy(), 0.5, compression="zstd")
    with pytest.raises(OutputError, match="holds the state of another run"):
        render(replace(config, slide=other))
    render(replace(config, slide=other, overwrite=True))


def test_runs_share_loaded_networks(config, stainers, picture):
    """Also of the same name: each keeps its own statistics."""
    networks, twice = Networks(), replace(config, stainer=f"{stainers[0]},{stainers[0]}", marker="A,B")
    first, second = open_run(twice, networks), open_run(replace(config, overwrite=True), networks)
    assert first.stainers.nets[0] is second.stainers.nets[0] is not first.stainers.nets[1]
    one, other = (pixels(files.slide) for files in first.make())
    (alone,) = second.make()
    assert np.array_equal(one, other)
    assert np.array_equal(one, pixels(alone.slide))
    assert not np.array_equal(one, picture)


def test_a_picture_with_transparency(config, tmp_path, picture):
    rgba = np.dstack([picture[800:1600], np.full((800, 64), 255, np.uint8)])
    rgba[:400, :, 3] = 0
    config = replace(config, slide=png(tmp_path / "p.png", rgba), mpp=0.5)
    (files,) = translate(config)
    assert pixels(files.slide).shape == (800, 64, 3)
    assert (pixels(files.slide)[:200] == slide_background(open_slide(config.slide, 0.5)).colour).all()
    assert not np.array_equal(pixels(files.slide)[400:], rgba[400:, :, :3])


def test_what_cannot_be_translated(config, tmp_path, picture):
    path = png(tmp_path / "p.png", picture[:64, :64])
    with pytest.raises(MissingMppError, match="pass --mpp"):
        translate(replace(config, slide=path))
    grey = png(tmp_path / "g.png", picture[..., 0])
    with pytest.raises(SlideError, match="is grey"):
        translate(replace(config, slide=grey, mpp=0.5))
    faint = np.repeat(picture[..., :1], 3, axis=2)
    faint[..., 2] -= 2  # as after a JPEG or a colour profile
    with pytest.raises(SlideError, match="is grey"):
        translate(replace(config, slide=png(tmp_path / "f.png", faint), mpp=0.5))
    with pytest.raises(InvalidValueError, match=r"--mpp must be a number in \(0, 1000\] µm/px, got '0\.5'"):
        replace(config, mpp="0.5")
    with pytest.raises(SlideError, match="no such file"):
        translate(replace(config, slide=tmp_path / "none.svs"))
    with pytest.raises(InvalidValueError, match="--stainer must be a bundled name"):
        replace(config, stainer=None)
    left = {path.name for path in config.out.rglob("*") if path.is_file()}
    assert left == {"journal.json", "lock"}, "of the grey slide, whose pixels are looked at last"


def test_a_comma_in_the_path_of_a_stainer(config, stainers, tmp_path):
    odd = tmp_path / "breast, 2024"
    odd.symlink_to(stainers[0])
    match = "stainer takes several names separated by commas, and the path .*breast, 2024 holds one; rename"
    for names in (str(odd), f"SYN,{odd}", f"{odd},SYN"):
        with pytest.raises(InvalidValueError, match=match):
            open_run(replace(config, stainer=names))
    with pytest.raises(InvalidValueError, match=match):
        wsigen.Translator.from_pretrained(odd, device="cpu")
    assert len(open_run(replace(config, stainer=", ".join(stainers))).stainers.nets) == 2


@pytest.mark.parametrize("size", [(16, 16), (17, 33), (40, 700), (700, 21)])
def test_small_and_narrow_slides(config, tmp_path, size):
    image = np.random.default_rng(0).integers(40, 200, (*size, 3)).astype(np.uint8)
    (files,) = translate(replace(config, slide=png(tmp_path / "p.png", image), mpp=0.5))
    assert np.array_equal(
        pixels(files.slide), straight(replace(config, slide=tmp_path / "p.png", mpp=0.5), image)[0]
    )


@pytest.mark.parametrize("kind", ["dicom", "zarr"])
def test_a_slide_of_several_files_is_translated_as_one_in_a_file(config, picture, tmp_path, kind):
    """To the same pixels and µm/px, under the name of its folder; of DICOM from any of its levels."""
    picture, folder = np.ascontiguousarray(picture[1000:1200]), tmp_path / "he"
    slide = write_tiff(tmp_path / "case_HE.tif", picture, 0.5, compression="zstd")
    if kind == "dicom":
        given = write_dicom(folder / "case_HE", picture, 0.5, levels=2)[1]
    else:
        given = write_zarr(folder / "case_HE.ome.zarr", [picture, reduce_by(picture, 2)], 0.5)
    alone, several = (
        translate(replace(config, slide=path, out=tmp_path / f"{path.name}-out"))[0]
        for path in (slide, given)
    )
    assert several.slide.name == "case_IHC-SYN.ome.tif"
    np.testing.assert_array_equal(pixels(several.slide), pixels(alone.slide))
    assert open_slide(several.slide).mpp == 0.5
    source = json.loads(several.provenance.read_bytes())["source"]
    assert source["slide"] == ("case_HE" if kind == "dicom" else "case_HE.ome.zarr")


def test_the_image_that_was_chosen_is_translated(config, slide, picture, tmp_path):
    """As if it were alone in its file; the provenance says which it was."""
    both = tmp_path / "case_HE.tif"
    with tifffile.TiffWriter(both) as tiff:
        options = {"photometric": "rgb", "tile": (256, 256), "metadata": None}
        options |= {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
        for image in (picture[:, ::-1], picture):
            tiff.write(np.ascontiguousarray(image), **options)
    with pytest.raises(AmbiguousSlideError, match="choose one with --series N"):
        open_run(replace(config, slide=both))
    alone, chosen = (
        translate(replace(config, slide=path, series=series, out=tmp_path / f"out{series}"))[0]
        for path, series in ((slide, None), (both, 1))
    )
    np.testing.assert_array_equal(pixels(chosen.slide), pixels(alone.slide))
    source = json.loads(chosen.provenance.read_bytes())["source"]
    assert source["series"] == 1
    assert "series" not in json.loads(alone.provenance.read_bytes())["source"]


@pytest.mark.parametrize("layout", ["lossless", "generic"])
def test_pixels_that_are_nearly_square_keep_height_and_width(config, picture, tmp_path, layout):
    """Scanners differ by tenths of a percent from row to column; the IHC slide has the size of the H&E."""
    path = tmp_path / "case_HE.tif"
    scale = {"resolution": (1e4 / 0.502, 1e4 / 0.5), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, picture, photometric="rgb", tile=(256, 256), metadata=None, **scale)
    slide = translate(replace(config, slide=path, layout=layout))[0]
    with openslide.OpenSlide(slide.slide) as made:
        size = [float(made.properties[f"openslide.mpp-{axis}"]) for axis in "yx"]
    assert size == pytest.approx([0.5, 0.502], rel=1e-6)
    again = open_slide(slide.slide)
    assert again.mpp == pytest.approx(0.501)
    assert again.pixel_um == pytest.approx((0.5, 0.502), rel=1e-6)
    shown = FileSlide(again).properties
    assert [shown[f"openslide.mpp-{axis}"] for axis in "yx"] == ["0.5", "0.502"]
    assert json.loads(slide.provenance.read_bytes())["pixel_um"] == pytest.approx([0.5, 0.502])
