"""CUT's update against the same losses computed one by one, without what it saves."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from tests.training.stain.conftest import options
from wsigen.config import CutConfig, CutLossConfig, FastCutConfig
from wsigen.errors import InvalidValueError
from wsigen.stain.losses.adversarial import discriminator_loss, generator_loss
from wsigen.training.processes import Processes
from wsigen.training.stain.cut import Cut, feature_channels
from wsigen.training.stain.method import Batch

LAYERS = (0, 4, 8, 12)


def make(processes: Processes, **loss: Any) -> Cut:
    loss = {"layers": LAYERS, "places": 8, "heads": 8, **loss}
    return Cut(CutConfig(**options(seed=3, loss=CutLossConfig(**loss))), processes)


def expected(cut: Cut, batch: Batch) -> dict[str, torch.Tensor]:
    """The paper's losses with a pass for each, and the discriminator's step taken by hand."""
    G, D, H = (copy.deepcopy(cut.nets[name]) for name in "GDH")
    x, y, numbers = batch
    loss_D = discriminator_loss(D(y), D(G(x).detach()))
    optimizer = torch.optim.Adam(D.parameters(), lr=2e-4, betas=(0.5, 0.999))
    loss_D.backward()
    optimizer.step()
    losses = {"discriminator": loss_D, "gan": generator_loss(D(G(x)))}
    for name, image, seed in (("nce", x, 3), ("nce_identity", y, 3 ^ 2**62)):
        queries, keys = G.features(G(image), LAYERS), G.features(image, LAYERS)
        losses[name] = H(queries, keys, seed=seed, image_numbers=numbers)
    return losses


def test_losses_are_those_of_the_paper(processes, batch):
    cut = make(processes, lambda_gan=2.0, lambda_nce=3.0, lambda_identity=5.0)
    losses = expected(cut, batch)
    found = cut.update(batch)
    for name, value in losses.items():
        torch.testing.assert_close(found[name], value.detach(), rtol=1e-4, atol=1e-5)
    total = 2 * found["gan"] + 3 * found["nce"] + 5 * found["nce_identity"]
    torch.testing.assert_close(found["loss"], total)
    assert list(found) == ["loss", "gan", "nce", "nce_identity", "discriminator"]
    assert not any(value.requires_grad for value in found.values())


def test_one_update_is_one_step_of_adam_down_each_loss(processes, batch):
    """Adam's first step is lr · g / (|g| + ε): weights move by the rate, against the gradient's sign."""
    cut = make(processes)
    before = {name: p.detach().clone() for name, p in cut.nets.named_parameters()}
    cut.update(batch)
    moved = 0
    for name, p in cut.nets.named_parameters():
        assert p.grad is not None, name
        clear = p.grad.abs() > 1e-5
        moved += int(clear.sum())
        wanted = before[name] - 2e-4 * p.grad.sign()
        torch.testing.assert_close(p.data[clear], wanted[clear], rtol=0, atol=3e-6)
    assert moved > 1000


def test_generator_and_heads_leave_the_discriminator_alone(processes, batch):
    """What the discriminator's parameters keep is the gradient of its own loss."""
    cut = make(processes)
    D, fake = copy.deepcopy(cut.discriminator), cut.generator(batch.source).detach()
    discriminator_loss(D(batch.target), D(fake)).backward()
    cut.update(batch)
    for mine, p in zip(D.parameters(), cut.discriminator.parameters(), strict=True):
        assert p.grad is not None
        torch.testing.assert_close(p.grad, mine.grad, rtol=1e-4, atol=1e-6)


def test_without_identity_target_images_are_not_translated(processes, batch, monkeypatch):
    cut = make(processes, lambda_identity=0.0)
    seen, features = [], cut.features

    def watched(x: torch.Tensor, layers: tuple[int, ...]) -> list[torch.Tensor]:
        seen.append((len(x), layers[-1]))
        return features(x, layers)

    monkeypatch.setattr(cut, "features", watched)
    found = cut.update(batch)
    assert list(found) == ["loss", "gan", "nce", "discriminator"]
    last = len(cut.generator.model) - 1
    assert seen == [(2, last), (2, 12)], "one pass to the end, one through the encoder"


def test_flipped_images_are_compared_place_by_place(processes, batch, monkeypatch):
    """Flip-equivariance: image 6 is flipped, its queries are flipped back, its keys are as they were."""
    cut = make(processes, lambda_identity=0.0, flip_equivariance=True)
    flipped = torch.tensor([True, False])[:, None, None, None]
    monkeypatch.setattr(cut, "_draw_flips", lambda batch, x: flipped)
    G, H = copy.deepcopy(cut.generator), copy.deepcopy(cut.nce)
    x, _, numbers = batch
    out = G(torch.stack([x[0].flip(2), x[1]]))
    queries = [torch.stack([q[0].flip(2), q[1]]) for q in G.features(out, LAYERS)]
    nce = H(queries, G.features(x, LAYERS), seed=3, image_numbers=numbers)
    torch.testing.assert_close(cut.update(batch)["nce"], nce.detach(), rtol=1e-4, atol=1e-5)


def test_half_of_the_images_are_flipped_whatever_the_batch(processes):
    cut = make(processes, flip_equivariance=True)
    x = torch.zeros(1, 3, 4, 4)

    def drawn(numbers: list[int]) -> list[bool]:
        flips = cut._draw_flips(Batch(x, x, numbers), x.expand(len(numbers), -1, -1, -1))
        return [False] * len(numbers) if flips is None else flips.flatten().tolist()

    alone = [drawn([n])[0] for n in range(400)]
    assert 0.4 < sum(alone) / 400 < 0.6  # four standard deviations
    assert [flip for n in range(0, 400, 8) for flip in drawn(list(range(n, n + 8)))] == alone
    both = torch.zeros(4, 3, 4, 4)
    flips = cut._draw_flips(Batch(both[:2], both[2:], [0, 1]), both)
    assert flips is None or flips.flatten().tolist() == alone[:2] * 2, "source and target alike"
    cut.loss = CutLossConfig()
    assert cut._draw_flips(Batch(x, x, [0]), x) is None


def test_compiled_update_is_the_same(processes, batch, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda f, **options: compiled.append(f) or f)
    plain, cut = make(processes), make(processes)
    cut.compile()
    assert len(compiled) == 2, "discriminator and generator"
    assert torch.equal(cut.update(batch)["loss"], plain.update(batch)["loss"])


def test_channels_of_features():
    cut = make(Processes(None))  # pyright: ignore[reportArgumentType]
    assert feature_channels(cut.generator, (0, 4, 8, 12)) == (3, 8, 16, 16)
    with pytest.raises(InvalidValueError, match="layers must be rising numbers from 0 to"):
        feature_channels(cut.generator, (0, 99))


def test_fastcut_is_cut_with_other_weights():
    config = FastCutConfig(**options(kimg=200.0))
    assert (config.loss.lambda_nce, config.loss.lambda_identity, config.loss.flip_equivariance) == (
        10,
        0,
        True,
    )
    assert (config.optim.constant, config.optim.lr) == (0.75, 2e-4)
    assert (CutLossConfig().lambda_nce, CutLossConfig().lambda_identity) == (1, 1)
