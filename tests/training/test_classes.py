"""Training of a denoiser that is conditioned on classes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from wsigen.config import DataConfig, DenoiserConfig, OptimConfig, PatchGroup, TrainConfig
from wsigen.config.upscaler import UpscalerTrainConfig
from wsigen.errors import InvalidValueError, PathError
from wsigen.nn.denoiser import load_denoiser
from wsigen.nn.snapshot import WEIGHTS
from wsigen.training.denoiser import train

VECTORS = "class_embedding.weight"


@pytest.fixture
def config(slides: Path, tmp_path: Path) -> TrainConfig:
    """Of four updates; the last slide is held out."""
    table = tmp_path / "table.csv"
    table.write_text(
        "slide,split,class,organ\nslide0.tif,,liver,\nslide1.tif,,skin,colon\nslide2.tif,val,skin,\n"
    )
    return TrainConfig(
        data=DataConfig(
            slides=slides,
            table=table,
            patches=[PatchGroup(size=16, batch=4)],
            mpp_range=(0.5, 4.0),
            class_column="class",
            workers=0,
        ),
        model=DenoiserConfig(patchify=2, block_out_channels=(32,), pixel_channels=4, context_channels=4),
        optim=OptimConfig(lr=2e-3, warmup=2),
        kimg=0.016,
        run_dir=tmp_path / "run",
        mixed_precision="no",
        val_images=1,
        preview_mpp=(2.0,),
    )


def of(config: TrainConfig, column: str | None, run_dir: str, **others: object) -> TrainConfig:
    """The same run with another column of classes, in another folder."""
    folder = config.run_dir.parent / run_dir
    return replace(config, data=replace(config.data, class_column=column), run_dir=folder, **others)


def weights(snapshot: Path) -> dict[str, torch.Tensor]:
    return load_file(snapshot / WEIGHTS)


def test_run_learns_the_classes_of_its_training_slides(config, caplog):
    snapshot = train(config)
    net = load_denoiser(snapshot)
    assert net.classes == ("liver", "skin")
    assert json.loads((snapshot / "config.json").read_text())["classes"] == ["liver", "skin"]
    assert net.class_embedding.weight.shape == (3, 32)
    assert (net.class_embedding.weight.abs().amax(dim=1) > 1e-5).tolist()[:2] == [True, True]
    records = [json.loads(line) for line in (config.run_dir / "stats.jsonl").read_text().splitlines()]
    (validation,) = [record for record in records if "val_loss" in record]
    assert validation["val_class"].keys() == validation["val"].keys() == {"0.5-1", "1-4"}
    assert validation["val_class_loss"] == pytest.approx(validation["val_loss"], rel=0.1)
    with Image.open(config.run_dir / "samples-000000kimg.png") as picture:
        assert picture.size == (2 * 16, 16), "a column for each class"
    assert "class liver has slides of 1 case, which its samples will resemble" in caplog.text


def test_resumed_run_equals_one_that_never_stopped(config):
    straight = train(config)
    again = of(config, "class", "again")
    train(replace(again, kimg=0.008))
    torch.testing.assert_close(weights(train(again)), weights(straight), rtol=0, atol=0)


def test_run_adds_classes_to_weights_without(config):
    plain = train(of(config, None, "plain"))
    assert load_denoiser(plain).classes == ()
    before = weights(plain)
    after = weights(train(replace(config, init=str(plain), optim=OptimConfig(lr=1e-12))))
    assert after.pop(VECTORS).abs().max() < 1e-9
    torch.testing.assert_close(after, before, rtol=1e-6, atol=1e-6)


def test_run_keeps_the_vectors_of_classes_that_it_shares_with_its_weights(config):
    given = train(config)
    liver, _, none = weights(given)[VECTORS]
    config.data.table.write_text(
        "slide,split,class\nslide0.tif,,bone\nslide1.tif,,liver\nslide2.tif,val,skin\n"
    )
    snapshot = train(of(config, "class", "on", init=str(given), optim=OptimConfig(lr=1e-12)))
    assert load_denoiser(snapshot).classes == ("bone", "liver"), "of slides that are learnt from"
    expected = torch.stack([none, liver, none])
    torch.testing.assert_close(weights(snapshot)[VECTORS], expected, rtol=1e-6, atol=1e-8)


def test_weights_of_classes_are_not_continued_without(config):
    given = train(config)
    with pytest.raises(InvalidValueError, match=r"has the classes liver, skin; set --data\.class_column"):
        train(of(config, None, "plain", init=str(given)))


def test_slides_without_a_class_teach_what_no_class_looks_like(config):
    net = load_denoiser(train(of(config, "organ", "organ")))
    assert net.classes == ("colon",)
    assert net.class_embedding.weight.abs().amax(dim=1).min() > 1e-5


def test_classes_that_are_not_there_are_an_error(config):
    with pytest.raises(PathError, match="no column 'site' for the classes; got slide, split, class, organ"):
        train(of(config, "site", "run"))
    config.data.table.write_text("slide,class\nslide0.tif,\n")
    with pytest.raises(InvalidValueError, match=r"no training slide of .* has a class; add the column"):
        train(config)


def test_an_upscaler_takes_no_classes(config):
    data = replace(config.data, patches=[PatchGroup(size=64, batch=4)])
    with pytest.raises(InvalidValueError, match=r"data\.class_column must be left out: the upscaler follows"):
        UpscalerTrainConfig(data=data)
