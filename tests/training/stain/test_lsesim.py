"""L-LSeSim's update against the same losses computed one by one, with a stand-in for VGG16."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.training.stain.conftest import options
from wsigen.config import LSeSimConfig, LSeSimLossConfig
from wsigen.errors import InvalidValueError, SnapshotError
from wsigen.stain.losses import vgg
from wsigen.stain.losses.adversarial import ImagePool, discriminator_loss, generator_loss
from wsigen.stain.losses.lsesim import photometric
from wsigen.training.processes import Processes
from wsigen.training.stain.lsesim import LSeSim
from wsigen.training.stain.method import Batch

LAYERS = ("relu1_2", "relu2_1")


@pytest.fixture
def weights(tmp_path, monkeypatch) -> Path:
    """A VGG of two narrow blocks, in a file as torchvision's would be."""
    monkeypatch.setitem(vgg.PLANS, "vgg16", (4, 4, vgg.POOL, 6, vgg.POOL))
    torch.manual_seed(0)
    net = vgg.VGG(vgg.PLANS["vgg16"], ("relu2_1",))
    save_file(
        {f"features.{k}": v for k, v in net.features.state_dict().items()}, tmp_path / "vgg.safetensors"
    )
    return tmp_path / "vgg.safetensors"


def make(processes: Processes, weights: Path, **loss: Any) -> LSeSim:
    loss = {"layers": LAYERS, "vgg": str(weights), "width": 5, "places": 8, "patch": 6, **loss}
    return LSeSim(LSeSimConfig(**options(seed=3, loss=LSeSimLossConfig(**loss))), processes)


def test_losses_are_those_of_the_paper(processes, batch, weights):
    run = make(processes, weights, lambda_gan=2.0, lambda_spatial=3.0, strength=0.3)
    G, D, H, features = (
        copy.deepcopy(run.generator),
        copy.deepcopy(run.discriminator),
        copy.deepcopy(run.spatial),
        run.vgg,
    )
    x, y, numbers = batch
    recoloured = [
        features(photometric(image, seed=seed, image_numbers=numbers, strength=0.3))
        for image, seed in ((x, 3), (y, 3 ^ 2**62))
    ]
    contrast = [
        H.contrast(features(x), recoloured[0], recoloured[1], seed=3, image_numbers=numbers),
        H.contrast(features(y), recoloured[1], recoloured[0], seed=3 ^ 2**62, image_numbers=numbers),
    ]
    made = G(x).detach()
    judged = discriminator_loss(D(y), D(made))
    found = run.update(batch)
    torch.testing.assert_close(found["contrast"], torch.stack(contrast).mean().detach())
    torch.testing.assert_close(found["discriminator"], judged.detach())
    # what comes after the steps of discriminator and heads is seen by their new weights
    with torch.no_grad():
        gan = generator_loss(run.discriminator(made))
        spatial = run.spatial(features(made), features(x), seed=3, image_numbers=numbers)
    torch.testing.assert_close(found["gan"], gan)
    torch.testing.assert_close(found["spatial"], spatial)
    torch.testing.assert_close(found["loss"], 2 * gan + 3 * spatial)
    assert list(found) == ["loss", "gan", "spatial", "discriminator", "contrast"]


def test_without_negatives_of_the_other_domain(processes, batch, weights):
    run = make(processes, weights, other_negatives=False)
    H, features, contrast = copy.deepcopy(run.spatial), run.vgg, []
    for image, seed in ((batch.source, 3), (batch.target, 3 ^ 2**62)):
        numbers = {"seed": seed, "image_numbers": batch.numbers}
        other = features(photometric(image, **numbers, strength=0.4))
        contrast.append(H.contrast(features(image), other, **numbers))
    found = run.update(batch)["contrast"]
    torch.testing.assert_close(found, torch.stack(contrast).mean().detach())


def test_strongest_of_a_window_are_compared(processes, batch, weights):
    few, every = make(processes, weights, lambda_spatial=1.0), make(processes, weights, strongest=1.0)
    with torch.no_grad():
        maps = [few.vgg(batch.source), few.vgg(batch.target)]
        values = [run.spatial(*maps, seed=0, image_numbers=[0, 1]) for run in (few, every)]
    assert few.spatial.strongest == 0.25
    assert values[0] != values[1]


def test_discriminator_sees_images_of_the_past(processes, batch, weights):
    run = make(processes, weights, pool=2)
    first = run.generator(batch.source).detach()
    run.update(batch)
    torch.testing.assert_close(run.memory["pool"].state_dict()["images"], first)  # the pool is full
    second, shown = run.generator(batch.source).detach(), []
    run.discriminator.register_forward_pre_hook(lambda _, given: shown.append(given[0]))
    run.update(Batch(batch.source, batch.target, [12, 13]))
    past = ImagePool(2, seed=3)
    past.exchange(first, [0, 1])
    torch.testing.assert_close(shown[0][2:], past.exchange(second, [12, 13]))
    assert (shown[0][2:] - second).abs().amax(dim=(1, 2, 3)).max() > 1e-3


def test_heads_learn_to_find_structures_again(processes, batch, weights):
    run = make(processes, weights, other_negatives=False)
    run.optimizers["H"].param_groups[0]["lr"] = 2e-3
    losses = [run.update(batch)["contrast"].item() for _ in range(70)]
    assert min(losses) < 0.75 * losses[0]  # not the last: at so high a rate a single update may be off


def test_fixed_loss_has_no_heads_to_train(processes, batch, weights):
    run = make(processes, weights, learned=False)
    assert run.optimizers.keys() == {"G", "D"}
    assert list(run.spatial.parameters()) == []
    assert list(run.update(batch)) == ["loss", "gan", "spatial", "discriminator"]


def test_vgg_is_neither_trained_nor_kept(processes, batch, weights):
    run = make(processes, weights)
    before = copy.deepcopy(run.vgg.state_dict())
    run.update(batch)
    assert all(torch.equal(value, before[name]) for name, value in run.vgg.state_dict().items())
    assert not any("vgg" in name or "features" in name for name in run.nets.state_dict())
    assert not any(p.requires_grad for p in run.vgg.parameters())


def test_generator_gets_the_gradient_of_the_structure(processes, batch, weights):
    run = make(processes, weights, lambda_gan=0.0)
    run.update(batch)
    gradients = [p.grad for p in run.generator.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)
    assert sum(float(g.abs().sum()) for g in gradients if g is not None) > 0


def test_weights_that_cannot_be_had_are_named(processes, tmp_path):
    with pytest.raises(SnapshotError, match=r"nowhere\.pth"):
        make(processes, tmp_path / "nowhere.pth")


def test_layers_that_vgg_has_not_are_refused(processes, weights):
    with pytest.raises(InvalidValueError, match="no VGG layer 'relu9_1'"):
        make(processes, weights, layers=("relu9_1",))
