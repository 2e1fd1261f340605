"""CycleGAN's update against the same losses computed one by one."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from tests.training.stain.conftest import options
from wsigen.config import CycleGanConfig, CycleGanLossConfig, GeneratorConfig
from wsigen.training.processes import Processes
from wsigen.training.stain.cyclegan import CycleGan
from wsigen.training.stain.method import Batch


def make(processes: Processes, **loss: Any) -> CycleGan:
    network = GeneratorConfig(family="cyclegan", width=4, blocks=1)
    return CycleGan(
        CycleGanConfig(**options(seed=3, generator=network, loss=CycleGanLossConfig(**loss))), processes
    )


def test_losses_are_those_of_the_paper(processes, batch):
    run = make(processes, lambda_cycle=7.0, lambda_identity=0.2, pool=0)
    G, F, D_Y, D_X = (copy.deepcopy(run.nets[name]) for name in ("G", "F", "D_Y", "D_X"))
    x, y, _ = batch
    with torch.no_grad():
        gan, back = (D_Y(G(x)) - 1).square().mean(), (D_X(F(y)) - 1).square().mean()
        cycle = (F(G(x)) - x).abs().mean() + (G(F(y)) - y).abs().mean()
        identity = (G(y) - y).abs().mean() + (F(x) - x).abs().mean()
        judge_Y = (D_Y(y) - 1).square().mean() / 2 + D_Y(G(x)).square().mean() / 2
        judge_X = (D_X(x) - 1).square().mean() / 2 + D_X(F(y)).square().mean() / 2
    found = run.update(batch)
    expected = {
        "loss": gan + back + 7 * cycle + 7 * 0.2 * identity,
        **{"gan": gan, "gan_back": back, "cycle": cycle, "identity": identity},
        **{"discriminator": judge_Y, "discriminator_back": judge_X},
    }
    assert list(found) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


def test_networks_of_both_directions_differ(processes):
    run = make(processes)
    assert run.generator is run.nets["G"], "the way there is kept"
    for there, back in (("G", "F"), ("D_Y", "D_X")):
        first, second = (next(run.nets[name].parameters()) for name in (there, back))
        assert not torch.equal(first, second)
    assert next(run.G.parameters()).std().item() == pytest.approx(0.02, rel=0.2), "N(0, 0.02), appendix 7.2"


def test_discriminators_are_shown_the_past(processes, batch):
    """With a pool of one, an image that has been in it stays or is given back with probability ½."""
    run = make(processes, pool=1)
    first = run.G(batch.source[:1]).detach()
    run.update(Batch(batch.source[:1], batch.target[:1], [0]))
    torch.testing.assert_close(run.pool_Y.state_dict()["images"], first)
    seen = []
    run.pool_Y.exchange = lambda images, numbers: seen.append((images, numbers)) or images  # pyright: ignore
    made = run.G(batch.source).detach()
    run.update(batch)
    ((images, numbers),) = seen
    assert torch.allclose(images, made, atol=1e-5), "translations of before the update"
    assert numbers == [6, 7]


def test_discriminators_get_the_gradient_of_their_own_losses_only(processes, batch):
    run = make(processes, pool=0)
    D = copy.deepcopy(run.D_Y)
    made = run.G(batch.source).detach()
    loss = (D(batch.target) - 1).square().mean() / 2 + D(made).square().mean() / 2
    loss.backward()
    run.update(batch)
    for mine, p in zip(D.parameters(), run.D_Y.parameters(), strict=True):
        torch.testing.assert_close(p.grad, mine.grad, rtol=1e-4, atol=1e-6)


def test_identity_costs_nothing_where_it_has_no_weight(processes, batch):
    run = make(processes, lambda_identity=0.0)
    seen = []
    run.G.register_forward_hook(lambda module, given, out: seen.append(len(given[0])))
    assert "identity" not in run.update(batch)
    assert seen == [2, 2], "there, and back again"


def test_compiled_update_is_the_same(processes, batch, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda f, **options: compiled.append(options) or f)
    plain, run = make(processes), make(processes)
    run.compile()
    assert compiled == [{"options": {"layout_optimization": False}}] * 4
    assert torch.equal(run.update(batch)["loss"], plain.update(batch)["loss"])


def test_pools_are_remembered(processes, batch):
    run = make(processes, pool=2)
    run.update(batch)
    again = make(processes, pool=2)
    for name, part in again.memory.items():
        part.load_state_dict(copy.deepcopy(run.memory[name].state_dict()))
    again.nets.load_state_dict(run.nets.state_dict())
    for name, optimizer in again.optimizers.items():
        optimizer.load_state_dict(copy.deepcopy(run.optimizers[name].state_dict()))
    for number in range(3):
        next_batch = Batch(batch.target, batch.source, [8 + 2 * number, 9 + 2 * number])
        found, expected = again.update(next_batch), run.update(next_batch)
        assert {name: value.item() for name, value in found.items()} == {
            name: value.item() for name, value in expected.items()
        }
