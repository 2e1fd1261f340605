"""``train.py`` as a user meets it: the run folder's name, and what it refuses and how."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
import yaml

from tests.commands import parsed
from tests.synthetic import he_image, write_tiff
from wsigen.cli import main
from wsigen.config import TrainConfig

TINY = [
    "--data.patches=[{size: 16, batch: 2}]",
    "--data.mpp_range=[0.5,2.0]",
    "--data.workers=0",
    "--model.patchify=2",
    "--model.block_out_channels=[32]",
    "--model.pixel_channels=4",
    "--model.context_channels=4",
    "--kimg=0.004",
    "--val_images=1",
    "--preview_mpp=[1.0]",
    "--mixed_precision=no",
]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "slides").mkdir()
    return tmp_path / "slides"


@pytest.fixture
def refusal(folder, capsys):
    def run(*flags, slides=folder):
        with pytest.raises(SystemExit) as stopped:
            main.train([*TINY, f"--data.slides={slides}", *map(str, flags)])
        assert stopped.value.code == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
        return line

    return run


def good(folder, name="good.tif", seed=0):
    return write_tiff(folder / name, he_image(256, seed=seed), 0.5)


def test_run_folder_is_named_after_the_config(folder):
    good(folder)
    Path("mine.yaml").write_text("kimg: 0.002\n")
    main.train([*TINY[:7], *TINY[8:], f"--data.slides={folder}", "--config=mine.yaml"])
    checkpoint = torch.load(Path("runs") / "mine" / "checkpoint.pt", weights_only=True)
    assert checkpoint["images"] == 2, "the file's kimg"
    assert [p.name for p in Path("runs").iterdir()] == ["mine"]


def test_corrupt_slide_among_good_ones_is_left_out(folder, caplog):
    good(folder)
    good(folder, "other.tif", seed=1)
    (folder / "broken.svs").write_bytes(b"no slide")
    with caplog.at_level(logging.WARNING):
        main.train([*TINY, f"--data.slides={folder}", "--run_dir=run"])
    assert "left out broken.svs" in caplog.text
    assert Path("run/snapshot/config.json").is_file()


def test_empty_folder(refusal):
    assert "no slide" in refusal()


def test_missing_folder(refusal, tmp_path):
    assert "nowhere" in refusal(slides=tmp_path / "nowhere")


def test_only_blank_slides(refusal, folder):
    write_tiff(folder / "blank.tif", he_image(256, tissue=False), 0.5)
    line = refusal()
    assert "none of 1 slides can be used" in line
    assert "tissue" in line


def test_mpp_missing(refusal, folder):
    write_tiff(folder / "a.tif", he_image(256), None)
    line = refusal()
    assert "a.tif" in line
    assert "table" in line


def test_scales_that_no_slide_can_serve(refusal, folder):
    good(folder)
    assert "no slide can serve 16 px patches within (0.05, 0.1) µm/px" in refusal(
        "--data.mpp_range=[0.05,0.1]"
    )


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--kimg=0", "kimg must be > 0, got 0.0"),
        ("--data.mpp_range=[4,2]", "data.mpp_range must be two numbers with 0 < smallest < largest"),
        ("--data.patches=[{size: 15, batch: 2}]", "data.patches.size must be a multiple of 2"),
        ("--model.block_out_channels=[33]", "model.block_out_channels must be multiples of 32"),
        ("--accumulation=4", "cannot be shared by 1 processes × 4 accumulation steps"),
        ("--data.mpp_sampling=cubic", "data.mpp_sampling must be one of log-uniform, uniform, got cubic"),
        ("--mixed_precision=fp8", "mixed_precision must be bf16 or no, got fp8"),
        ("--optim.rate=3", "optim.rate"),
    ],
)
def test_an_option_that_cannot_be(refusal, folder, flag, says):
    good(folder)
    assert says in refusal(flag)


def test_unknown_config_key(refusal, folder):
    Path("c.yaml").write_text("optim: {learning: 3}\n")
    assert "learning" in refusal("--config=c.yaml")


def test_run_folder_that_cannot_be_made(refusal, folder, tmp_path):
    good(folder)
    (tmp_path / "file").write_text("")
    run_dir = tmp_path / "file" / "run"
    assert f"{run_dir}: cannot be written" in refusal(f"--run_dir={run_dir}")


STAINER = [
    "--data.patch_size=32",
    "--data.mpp_range=[0.5,0.5]",
    "--data.workers=0",
    "--generator.width=4",
    "--generator.blocks=0",
    "--discriminator.width=4",
    "--discriminator.layers=1",
    "--loss.layers=[0,4]",
    "--loss.places=4",
    "--loss.heads=4",
    "--kimg=0.001",
    "--val_images=1",
    "--preview_images=1",
    "--mixed_precision=no",
]


@pytest.fixture
def stains(folder) -> list[str]:
    """Flags that name a slide of each domain."""
    he, ihc = good(folder, "he.tif"), good(folder, "ihc.tif", seed=1)
    return [f"--data.source={he}", f"--data.target={ihc}"]


def test_method_in_the_file_trains_a_stain_translator(folder, stains):
    Path("mine.yaml").write_text("method: cut\nmarker: SYN\n")
    main.train([*STAINER, *stains, "--config", "mine.yaml"])
    assert '"marker": "SYN"' in (Path("runs") / "mine" / "snapshot" / "config.json").read_text()


def test_method_as_a_flag_trains_a_stain_translator(folder, stains):
    main.train(["--method", "cut", *STAINER, *stains])
    run = Path("runs") / "cut"
    assert yaml.safe_load((run / "config.yaml").read_text())["method"] == "cut"
    assert json.loads((run / "snapshot" / "config.json").read_text())["_class_name"] == "Generator"


@pytest.mark.parametrize("flag", ["--method=fastcut", "--method=denoiser"])
def test_flag_against_the_method_in_the_file_is_refused(stains, capsys, flag):
    Path("mine.yaml").write_text("method: cyclegan\n")
    with pytest.raises(SystemExit) as stopped:
        main.train(["--config=mine.yaml", flag, *stains])
    assert stopped.value.code == 2
    assert f"mine.yaml is for method cyclegan, got {flag}" in capsys.readouterr().err


def test_denoiser_is_a_method_too(folder, monkeypatch):
    for flags in (["--method", "denoiser"], ["--method=denoiser"], []):
        config, _ = parsed("train", [*flags, f"--data.slides={folder}"], monkeypatch)
        assert type(config) is TrainConfig


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--method=pix2pix"], "method must be one of denoiser, upscaler, cut, fastcut, cyclegan, lsesim"),
        (["--method=cut"], "data"),
        (["--method=cut", "--data.source=nowhere", "--data.target=x"], "nowhere: no such file or folder"),
        (["--method=cut", "--data.source=HE", "--data.target="], "data.target must be slides, got ''"),
        (["--method=cut", "S", "T", "--data.patch_size=30"], "data.patch_size must be a multiple of 4"),
        (["--method=cut", "S", "T", "--data.mpp_range=[1,0.5]"], "data.mpp_range must be two numbers"),
        (["--method=cut", "S", "T", "--data.min_tissue=2"], "data.min_tissue must be in [0, 1], got 2.0"),
        (["--method=cut", "S", "T", "--loss.layers=[4,0]"], "loss.layers must be rising layer numbers"),
        (["--method=cut", "S", "T", "--loss.places=1"], "loss.places must be >= 2, got 1"),
        (["--method=cut", "S", "T", "--loss.lambda_gan=-1"], "loss.lambda_gan must be >= 0"),
        (
            ["--method=cut", "S", "T", "--preview_images=99"],
            "preview_images must be between 1 and val_images",
        ),
        (["--method=cut", "S", "T", "--optim.constant=2"], "optim.constant must be in [0, 1]"),
        (["--method=cut", "S", "T", "--generator.family=unet"], "family must be one of cut, cyclegan"),
        (["--method=cyclegan", "S", "T", "--loss.pool=-1"], "loss.pool must be >= 0"),
        (["--method=cyclegan", "S", "T", "--loss.lambda_nce=1"], "lambda_nce"),
        (["--method=lsesim", "S", "T", "--loss.strength=1"], "loss.strength must be in [0, 1)"),
        (["--method=lsesim", "S", "T", "--loss.vgg=nowhere.pth"], "nowhere.pth"),
    ],
)
def test_a_stain_translators_option_that_cannot_be(stains, capsys, flags, says):
    short = dict(zip("ST", stains, strict=True))
    with pytest.raises(SystemExit) as stopped:
        main.train([*STAINER[-4:], "--data.workers=0", *(short.get(flag, flag) for flag in flags)])
    assert stopped.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert says in line


def test_yaml_that_cannot_be_read_is_reported_once(folder, capsys):
    Path("bad.yaml").write_text("method: [cut\n")
    with pytest.raises(SystemExit) as stopped:
        main.train(["--config", "bad.yaml", "--data.slides=x"])
    assert stopped.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert "Problems parsing config" in line
