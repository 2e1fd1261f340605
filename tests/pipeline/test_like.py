"""A slide in the stain of another: made from thumbnails of both, translated as by any stainer."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import numpy as np
import openslide
import pytest
import tifffile
import torch
from PIL import Image

from tests.pipeline.test_source import png
from tests.stain.style.test_network import model
from tests.synthetic import he_image, write_tiff
from wsigen.cli import main
from wsigen.config import TranslateConfig
from wsigen.errors import (
    AmbiguousSlideError,
    InvalidValueError,
    MissingMppError,
    OutputError,
    SlideError,
    SnapshotError,
)
from wsigen.nn.snapshot import save_snapshot, weights_hash
from wsigen.pipeline.background import slide_background
from wsigen.pipeline.translate import open_run, translate
from wsigen.slide.read import open_slide
from wsigen.stain.style.network import adain_map, wct_map
from wsigen.stain.style.thumbnail import compare_stains

SIDE = (840, 264)


def tinted(image):
    """The same in a bluer stain."""
    return np.clip(image * np.array([0.7, 0.85, 1.0]) + 20, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A slide, one of another laboratory, and a style model."""
    folder = tmp_path_factory.mktemp("like")
    write_tiff(folder / "case_HE.tif", he_image(SIDE, seed=3), 0.5, compression="zstd")
    write_tiff(folder / "other lab_HE.tif", tinted(he_image(300, seed=4)), 0.5, compression="zstd")
    net = model(width=4, seed=5)
    net.register_to_config(mpp=0.5)
    save_snapshot(net, folder / "style")
    return folder


@pytest.fixture
def config(inputs, tmp_path):
    return TranslateConfig(
        slide=inputs / "case_HE.tif",
        like=inputs / "other lab_HE.tif",
        style=str(inputs / "style"),
        out=tmp_path / "out",
        layout="lossless",
        dtype="float32",
    )


def pixels(path):
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]


def test_the_slide_has_the_pixels_of_the_network_and_says_how_it_came_about(config, inputs):
    (files,) = translate(config)
    assert sorted(p.name for p in config.out.iterdir()) == [
        f"case_like-other-lab.{e}" for e in ("jpg", "json", "ome.tif")
    ]
    content, reference = (open_slide(inputs / f"{n}_HE.tif") for n in ("case", "other lab"))
    net = model(width=4, seed=5)
    move = adain_map(*compare_stains(net.encoder, content, reference))
    image = he_image(SIDE, seed=3)
    x = torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.inference_mode():
        y = (net.decoder(move(net.encoder(x)))[0] + 1) * 127.5
    wanted = y.round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    found = pixels(files.slide)
    glass = slide_background(content).map
    opaque = glass.opacity(content.size.region) == 1
    assert opaque.mean() > 0.5
    assert np.abs(found[opaque].astype(int) - wanted[opaque]).max() <= 1
    assert np.abs(found[opaque].astype(int) - image[opaque]).mean() > 3
    facts = json.loads(files.provenance.read_text())
    assert facts["like"]["slide"] == "other lab_HE.tif"
    assert len(facts["like"]["sha256"]) == 64
    assert facts["source"]["slide"] == "case_HE.tif"
    assert (facts["strength"], facts["synthetic"]) == (1.0, True)
    assert facts["stainer_hash"] == weights_hash(inputs / "style")


@pytest.mark.parametrize("transfer", ["adain", "wct"])
def test_tile_does_not_show(config, tmp_path, transfer):
    config, made = replace(config, transfer=transfer), []
    for tile in (64, 128, "auto"):
        translate(replace(config, tile=tile, out=tmp_path / str(tile)))
        made.append((tmp_path / str(tile) / "case_like-other-lab.ome.tif").read_bytes())
    assert made[0] == made[1] == made[2]


def test_whitening_and_colouring_of_thumbnail_statistics(config, inputs):
    (files,) = translate(replace(config, transfer="wct", strength=0.5))
    content, reference = (open_slide(inputs / f"{n}_HE.tif") for n in ("case", "other lab"))
    net = model(width=4, seed=5)
    move = wct_map(*compare_stains(net.encoder, content, reference), 0.5)
    x = torch.from_numpy(he_image(SIDE, seed=3)).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.inference_mode():
        y = (net.decoder(move(net.encoder(x)))[0] + 1) * 127.5
    wanted, found = y.round().clamp(0, 255).permute(1, 2, 0).numpy(), pixels(files.slide)
    opaque = slide_background(content).map.opacity(content.size.region) == 1
    assert np.abs(found[opaque].astype(int) - wanted[opaque]).max() <= 1
    assert json.loads(files.provenance.read_text())["transfer"] == "wct"
    runs = [open_run(replace(config, transfer=transfer)) for transfer in ("adain", "wct")]
    assert len({run.outputs[0].fingerprint() for run in runs}) == 2


def test_strength_shows_and_belongs_to_the_slide(config):
    jobs = [open_run(replace(config, strength=s)) for s in (1.0, 0.5)]
    assert len({t.outputs[0].fingerprint() for t in jobs}) == 2
    scales = [t.stainers.nets[0].scale for t in jobs]
    torch.testing.assert_close(scales[1], 0.5 + 0.5 * scales[0])


def test_statistics_of_the_slide_are_those_inside_its_mask(config, tmp_path, inputs):
    half = np.zeros(SIDE, bool)
    half[: SIDE[0] // 2] = True
    Image.fromarray(half).save(tmp_path / "half.png")
    run = open_run(replace(config, mask=tmp_path / "half.png"))
    content, reference = (open_slide(inputs / f"{n}_HE.tif") for n in ("case", "other lab"))
    stats = compare_stains(model(width=4, seed=5).encoder, content, reference, run.mask)
    torch.testing.assert_close(run.stainers.nets[0].scale, adain_map(*stats).scale)
    whole = open_run(config).stainers.nets[0].scale
    assert not torch.allclose(run.stainers.nets[0].scale, whole, rtol=0, atol=1e-5)


def test_another_reference_is_another_slide(config, inputs, tmp_path):
    before = open_run(config).outputs[0].fingerprint()
    other = write_tiff(tmp_path / "other lab_HE.tif", he_image(300, seed=4), 0.5, compression="zstd")
    assert open_run(replace(config, like=other)).outputs[0].fingerprint() != before


class Stop(Exception):
    """Stands for a run that ends."""


def test_interrupted_it_goes_on_to_the_same_bytes(config, tmp_path):
    def render(config, **options):
        return open_run(replace(config, tile=64)).make(block=512, **options)

    def stop(done):
        if done >= 768:
            raise Stop

    render(config)
    other = replace(config, out=tmp_path / "stopped")
    with pytest.raises(Stop):
        render(other, progress=stop)
    assert [p.name for p in other.out.iterdir()] == [".case_like-other-lab.partial"]
    assert list(other.out.glob(".case_like-other-lab.partial/rows/*.block"))
    render(other)
    names = {p.name for p in config.out.iterdir()}
    assert {p.name for p in other.out.iterdir()} == names
    assert all((other.out / n).read_bytes() == (config.out / n).read_bytes() for n in names)


def test_dry_run(config):
    plan = open_run(config).describe().splitlines()
    assert plan[1].startswith("stains      like-other-lab: 1 tiles of")
    assert "0 patches of statistics" in plan[1]
    assert not config.out.exists()


def test_a_scale_that_the_style_model_does_not_know(config, caplog):
    with caplog.at_level(logging.WARNING):
        open_run(replace(config, mpp=2.0))
    assert "was trained at 0.5; quality may be lower" in caplog.text


def test_a_grey_reference_is_refused(config, tmp_path):
    grey = png(tmp_path / "grey.png", he_image(200, seed=4)[..., 1])
    with pytest.raises(SlideError, match=r"grey\.png: is grey, and its stain is wanted; give another --like"):
        open_run(replace(config, like=grey, like_mpp=0.5))


def test_a_picture_as_reference(config, tmp_path):
    path = png(tmp_path / "field.png", tinted(he_image(200, seed=4)))
    with pytest.raises(MissingMppError, match="not in its metadata; pass --like-mpp"):
        open_run(replace(config, like=path))
    t = open_run(replace(config, like=path, like_mpp=0.5))
    assert t.outputs[0].slide.name == "case_like-field.ome.tif"


def test_the_image_that_was_chosen_is_the_reference(config, tmp_path):
    """As if it were alone in its file."""
    other, wanted = tinted(he_image(200, seed=8)), tinted(he_image(200, seed=4))
    both, alone = tmp_path / "both.tif", tmp_path / "both" / "both.tif"
    alone.parent.mkdir()
    for path, images in ((both, (other, wanted)), (alone, (wanted,))):
        with tifffile.TiffWriter(path) as tiff:
            for image in images:
                tiff.write(image, photometric="rgb", metadata=None)
    with pytest.raises(
        AmbiguousSlideError, match=r"choose one with --like-series N, like_series= in Python$"
    ):
        open_run(replace(config, like=both, like_mpp=0.5))
    chosen, single = (
        translate(replace(config, like=path, like_mpp=0.5, like_series=series, out=tmp_path / f"o{series}"))[
            0
        ]
        for path, series in ((both, 1), (alone, None))
    )
    np.testing.assert_array_equal(pixels(chosen.slide), pixels(single.slide))
    assert json.loads(chosen.provenance.read_bytes())["like"]["series"] == 1


def test_references_and_models_that_cannot_be(config, inputs, tmp_path):
    blank = png(tmp_path / "blank.png", he_image(200, tissue=False))
    with pytest.raises(SlideError, match="no tissue"):
        open_run(replace(config, like=blank, like_mpp=0.5))
    with pytest.raises(SlideError, match="no such file"):
        open_run(replace(config, like=tmp_path / "none.svs"))
    with pytest.raises(SnapshotError, match="no such"):
        open_run(replace(config, style=str(tmp_path / "none")))
    config.out.mkdir()
    (config.out / "case_like-other-lab.ome.tif").write_text("")
    with pytest.raises(OutputError, match="exists already; pass --overwrite"):
        translate(config)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"style": None}, "--style must be the folder or hub id of a style model, with --like, got None"),
        ({"stainer": "SYN"}, "--stainer must be left out with --like, got SYN"),
        ({"marker": "SYN"}, "--marker must be left out with --like"),
        ({"norm": "tin"}, "--norm must be left out with --like, got tin"),
        ({"strength": 1.5}, r"--strength must be in \[0, 1\], got 1.5"),
        ({"like_mpp": 0.0}, r"--like-mpp must be a number in \(0, 1000\] µm/px, got 0.0"),
        ({"like_series": -1}, "--like-series must be a number from 0 on, got -1"),
        ({"tile": 100}, "--tile must be auto or a multiple of 8, at least 64 px, got 100"),
        ({"like": None}, "--stainer must be a bundled name"),
        ({"like": None, "stainer": "SYN"}, "--style must be left out without --like"),
        ({"like": None, "stainer": "SYN", "style": None, "strength": 0.5}, "--strength must be left out"),
        ({"like": None, "stainer": "SYN", "style": None, "transfer": "wct"}, "--transfer must be left out"),
    ],
)
def test_options_that_do_not_go_together(config, change, says):
    with pytest.raises(InvalidValueError, match=says):
        replace(config, **change)


def test_the_command(inputs, tmp_path, capsys):
    arguments = ["translate", str(inputs / "case_HE.tif"), "--like", str(inputs / "other lab_HE.tif")]
    with pytest.raises(SystemExit):
        main.main(arguments)
    assert "error: --style must be the folder or hub id" in capsys.readouterr().err
    more = ["--style", str(inputs / "style"), "--strength=0.8", "--out", str(tmp_path), "--name", "mine"]
    main.main([*arguments, *more])
    assert json.loads((tmp_path / "mine_like-other-lab.json").read_text())["strength"] == 0.8
