"""Training of a style decoder: its losses, what it leaves alone, and a run from slides to a snapshot."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator
from torch.nn.functional import avg_pool2d

from tests.stain.style import published
from tests.synthetic import he_image, write_tiff
from wsigen.config import AdainConfig, StainOptimConfig, StyleDataConfig, StyleLossConfig
from wsigen.errors import InvalidValueError, SnapshotError
from wsigen.stain.losses.style import stroke_loss, style_loss
from wsigen.stain.style.network import adain_map, feature_stats
from wsigen.stain.style.weights import load_style
from wsigen.training.processes import Processes
from wsigen.training.stain.adain import Adain
from wsigen.training.stain.method import Batch
from wsigen.training.stain.train import train_stainer


def config(**more) -> AdainConfig:
    data = StyleDataConfig(
        source="HE", target="HE2", patch_size=64, batch=2, mpp_range=(1.0, 1.0), workers=0, val_fraction=0.0
    )
    options = {
        "data": data,
        "encoder": "new",
        "encoder_width": 4,
        "mixed_precision": "no",
        "optim": StainOptimConfig(lr=2e-3, betas=(0.9, 0.99)),
        "kimg": 0.008,
        "report_every": 1,
        "val_images": 3,
        "preview_images": 2,
    }
    return AdainConfig(**{**options, **more})


def method(**more) -> Adain:
    return Adain(config(**more), Processes(Accelerator(cpu=True)))


def tinted(image: np.ndarray) -> np.ndarray:
    """The same tissue in another laboratory's stain: less red, more blue."""
    return np.clip(image * np.array([0.75, 0.85, 1.0]) + 20, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def batch() -> Batch:
    he = [he_image(64, seed=i, mpp=1.0) for i in range(4)]
    source, target = (
        torch.from_numpy(np.stack(x)).permute(0, 3, 1, 2) / 127.5 - 1
        for x in (he[:2], [tinted(x) for x in he[2:]])
    )
    return Batch(source, target, [0, 1])


@pytest.fixture(scope="module")
def vgg(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Weights of a narrow VGG-19, as they are published."""
    path = tmp_path_factory.mktemp("vgg") / "vgg_normalised.pth"
    torch.save(published.seeded(published.normalised_vgg).state_dict(), path)
    return str(path)


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adain")
    for name, change in (("HE", np.asarray), ("HE2", tinted)):
        (folder / name).mkdir()
        image = change(he_image(256, seed=len(name), mpp=1.0))
        write_tiff(folder / name / f"{name}.tif", image, 1.0, levels=1, compression="zstd")
    return folder


def on(slides: Path, **more) -> AdainConfig:
    made = config(**more)
    data = replace(made.data, source=str(slides / "HE"), target=str(slides / "HE2"))
    return replace(made, data=data, run_dir=more.get("run_dir"))


def test_losses_are_those_of_the_paper(batch: Batch, vgg: str) -> None:
    run = method(encoder=vgg, loss=StyleLossConfig(lambda_content=3.0, lambda_style=7.0))
    net = run.generator
    with torch.no_grad():
        content, style = net.encoder(batch.source), net.encoder.features(batch.target)
        t = adain_map(feature_stats(content), feature_stats(style[-1]))(content)
        painted = net.encoder.features(net.decoder(t))
    L_c, L_s = (painted[-1] - t).square().mean(), style_loss(painted, style)
    found = run.update(batch)
    torch.testing.assert_close(found["content"], L_c)
    torch.testing.assert_close(found["style"], L_s)
    torch.testing.assert_close(found["loss"], 3 * L_c + 7 * L_s)
    assert list(found) == ["loss", "content", "style"]


def test_stroke_loss_compares_with_the_painted_thumbnail(batch: Batch, vgg: str) -> None:
    loss = StyleLossConfig(lambda_content=0.0, lambda_style=0.0, lambda_stroke=2.0)
    run = method(encoder=vgg, loss=loss)
    net = run.generator
    with torch.no_grad():
        small = net.encoder(avg_pool2d(batch.source, 2))
        move = adain_map(feature_stats(small), feature_stats(net.encoder(batch.target)))
        patch, thumbnail = net.decoder(move(net.encoder(batch.source))), net.decoder(move(small))
        expected = stroke_loss(lambda x: [net.encoder(x)], patch, thumbnail)
    found = run.update(batch)
    assert expected > 0
    torch.testing.assert_close(found["stroke"], expected)
    torch.testing.assert_close(found["loss"], 2 * expected)


def test_a_few_updates_reduce_the_loss_and_leave_the_encoder_alone(batch: Batch, vgg: str) -> None:
    run = method(encoder=vgg)
    before = {name: value.clone() for name, value in run.generator.state_dict().items()}
    losses = [run.update(batch)["loss"].item() for _ in range(25)]
    assert losses[-1] < 0.7 * losses[0]
    for name, value in run.generator.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("encoder"), name


def test_a_new_encoder_learns_to_reconstruct(batch: Batch) -> None:
    run = method()
    both = torch.cat([batch.source, batch.target])
    with torch.no_grad():
        first = (run.generator(both) - both).abs().mean()
    found = [run.update(batch)["reconstruction"] for _ in range(25)]
    torch.testing.assert_close(found[0], first)
    assert found[-1] < 0.7 * first


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_new_encoder_learns_from_nothing_else(batch: Batch, weight: float) -> None:
    run = method(loss=StyleLossConfig(lambda_reconstruction=weight))
    before = {name: value.clone() for name, value in run.generator.state_dict().items()}
    run.update(batch)
    after = run.generator.state_dict()
    moved = {name.split(".")[0] for name in after if not torch.equal(after[name], before[name])}
    assert moved == ({"decoder", "encoder"} if weight else {"decoder"})


def test_a_new_encoder_gains_nothing_by_shrinking_its_features(batch: Batch) -> None:
    run = method()
    net = run.generator
    with torch.no_grad():
        style, content = net.encoder.features(batch.target), net.encoder(batch.source)
        t = adain_map(feature_stats(content), feature_stats(style[-1]))(content)
        painted = net.encoder.features(net.decoder(t))
        units = [f.square().mean().sqrt() for f in style]
        L_c = ((painted[-1] - t) / units[-1]).square().mean()
        L_s = style_loss(*([f / u for f, u in zip(fs, units, strict=True)] for fs in (painted, style)))
    found = run.update(batch)
    torch.testing.assert_close(found["content"], L_c)
    torch.testing.assert_close(found["style"], L_s)


def test_compiled_update_is_the_same(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda f, **options: compiled.append(f) or f)
    plain, run = method(), method()
    run.compile()
    assert len(compiled) == 3
    assert torch.equal(run.update(batch)["loss"], plain.update(batch)["loss"])


def test_validation_paints_in_the_stain_of_all_target_pictures_together() -> None:
    run = method()
    target = torch.from_numpy(np.stack([he_image(64, seed=i) for i in range(6)])).permute(0, 3, 1, 2)
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    net = run.generator.eval()
    with torch.inference_mode():
        painted = run.translator(net, target)(x)
        features = net.encoder(target / 127.5 - 1)
        mean = features.mean(dim=(0, 2, 3))
        std = (features.var(dim=(0, 2, 3), correction=0) + 1e-5).sqrt()
        own = net.encoder(x)
        own_stats = feature_stats(own)
        gain = (std / own_stats.std).clamp(max=10)[:, :, None, None]
        t = gain * (own - own_stats.mean[:, :, None, None]) + mean[:, None, None]
    torch.testing.assert_close(painted, net.decoder(t), atol=1e-4, rtol=1e-4)


def test_from_slides_to_a_snapshot(slides: Path, tmp_path: Path) -> None:
    folder = train_stainer(on(slides, run_dir=tmp_path / "run"))
    net = load_style(folder)
    assert net.config["width"] == 4
    assert net.config["mpp"] == 1.0
    assert tuple(net.config["mpp_range"]) == (1.0, 1.0)
    assert net.config["source"] == "encoder trained along"
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["method"] == "adain"
    lines = [json.loads(line) for line in (tmp_path / "run" / "stats.jsonl").read_text().splitlines()]
    assert [line["update"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    assert {"content", "style"} <= set(lines[0])
    assert list((tmp_path / "run").glob("translations-*.png"))


def test_resumed_run_ends_with_the_same_weights(slides: Path, tmp_path: Path) -> None:
    whole = train_stainer(on(slides, run_dir=tmp_path / "whole", optim=StainOptimConfig(constant=1.0)))
    half = on(slides, run_dir=tmp_path / "halves", optim=StainOptimConfig(constant=1.0), kimg=0.004)
    train_stainer(half)
    halves = train_stainer(replace(half, kimg=0.008))
    a, b = (load_style(folder).state_dict() for folder in (whole, halves))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_folder_of_another_encoder_is_refused(slides: Path, tmp_path: Path) -> None:
    train_stainer(on(slides, run_dir=tmp_path / "run", kimg=0.002))
    with pytest.raises(InvalidValueError, match="holds a run with encoder_width=4, this one has 8"):
        train_stainer(on(slides, run_dir=tmp_path / "run", kimg=0.002, encoder_width=8))


def test_encoder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match=r"none\.pth: no such file"):
        method(encoder=str(tmp_path / "none.pth"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder_width": 0}, "encoder_width must be >= 1, got 0"),
        (
            {"loss": StyleLossConfig(lambda_stroke=1.0, thumbnail=8)},
            "data.patch_size must be a multiple of 64 and at least 128 with the stroke loss, got 64",
        ),
    ],
)
def test_values_that_cannot_be(change: dict, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        config(**change)


def test_patches_that_do_not_fit_the_encoder() -> None:
    with pytest.raises(InvalidValueError, match=r"data\.patch_size must be a multiple of 8, got 100"):
        StyleDataConfig(source="a", target="b", patch_size=100)
    with pytest.raises(InvalidValueError, match=r"loss\.thumbnail must be >= 2, got 1"):
        StyleLossConfig(thumbnail=1)


def test_defaults_are_the_published_ones() -> None:
    made = AdainConfig(data=StyleDataConfig(source="a", target="b"))
    assert (made.data.patch_size, made.data.batch, made.kimg) == (256, 8, 160 * 8)
    assert (made.optim.lr, made.optim.betas, made.encoder) == (1e-4, (0.9, 0.999), "torchvision")
    assert (made.loss.lambda_content, made.loss.lambda_style, made.loss.lambda_stroke) == (1.0, 10.0, 0.0)
