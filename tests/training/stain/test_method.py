"""What a method gets from the processes: gradients over processes, images of all of them, precision."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tests.training.stain.conftest import options
from wsigen.config import STAIN_METHODS, CutConfig, FastCutConfig
from wsigen.training.processes import Processes, frozen
from wsigen.training.stain.cut import Cut
from wsigen.training.stain.method import make_discriminator, make_generator
from wsigen.training.stain.train import METHODS, make_method


def one_of_two(rank: int, **more: Any) -> Processes:
    return Processes(SimpleNamespace(num_processes=2, process_index=rank, **more))  # pyright: ignore


def test_a_step_takes_the_gradient_averaged_over_processes():
    """Another process, whose gradient is 3 everywhere, makes ½ (2 w + 3) of this one's 2 w."""
    weight, unused = nn.Parameter(torch.tensor([1.0, -2.0])), nn.Parameter(torch.ones(3))
    asked = []

    def reduce(flat: torch.Tensor, how: str) -> torch.Tensor:
        asked.append((len(flat), how))
        return (flat + 3) / 2

    processes = one_of_two(0, reduce=reduce, backward=lambda loss: loss.backward())
    optimizer = torch.optim.SGD([weight, unused], lr=0.1)
    processes.apply(weight.square().sum(), optimizer)
    torch.testing.assert_close(weight.data, torch.tensor([1.0 - 0.25, -2.0 + 0.05]))
    assert torch.equal(unused.data, torch.ones(3))
    assert asked == [(2, "mean")], "one message, of what has a gradient"


def test_a_step_forgets_gradients_of_before(processes):
    weight = nn.Parameter(torch.tensor(1.0))
    weight.grad = torch.tensor(100.0)
    processes.apply(3 * weight, torch.optim.SGD([weight], lr=0.1))
    torch.testing.assert_close(weight.data, torch.tensor(0.7))


def test_images_of_all_processes_are_in_the_order_of_their_numbers():
    mine = {0: torch.full((2, 1, 1, 1), 0.0), 1: torch.full((2, 1, 1, 1), 1.0)}
    for rank in (0, 1):
        processes = one_of_two(rank, gather=lambda images: torch.cat([mine[0], mine[1]]))
        everyones = processes.gather(mine[rank])
        assert everyones.flatten().tolist() == [0, 0, 1, 1]
        assert torch.equal(processes.share(everyones), mine[rank])
        assert processes.gather_numbers([10 + 2 * rank, 11 + 2 * rank]) == [10, 11, 12, 13]


def test_frozen_networks_let_gradients_through_and_get_none():
    net, fixed = nn.Linear(2, 2), nn.Linear(2, 2)
    fixed.bias.requires_grad_(False)
    x = torch.ones(1, 2, requires_grad=True)
    with frozen(net, fixed):
        loss = fixed(net(x)).sum()
    loss.backward()
    assert x.grad is not None
    assert net.weight.grad is None
    assert [p.requires_grad for p in (*net.parameters(), *fixed.parameters())] == [True, True, True, False]

    with pytest.raises(RuntimeError), frozen(net):
        raise RuntimeError
    assert net.weight.requires_grad


def test_generator_remembers_what_it_will_have_been_trained_on():
    config = CutConfig(**options(marker="SYN"))
    net = make_generator(config, 0, "xavier")
    assert (net.config["marker"], net.config["mpp"], net.config["mpp_range"]) == ("SYN", 1.0, (1.0, 1.0))
    assert (net.config["patch_size"], net.config["width"], net.config["blocks"]) == (32, 4, 1)
    config = replace(config, data=replace(config.data, mpp_range=(0.5, 1.0)))
    assert make_generator(config, 0, "xavier").config["mpp"] is None


def test_networks_follow_from_the_seed_alone():
    config = CutConfig(**options())
    torch.manual_seed(1)
    first = make_discriminator(config, 5, "normal").state_dict()
    torch.manual_seed(2)
    for name, value in make_discriminator(config, 5, "normal").state_dict().items():
        assert torch.equal(value, first[name])


def test_every_method_can_be_told_and_made(processes):
    assert METHODS.keys() == STAIN_METHODS.keys()
    for name, config in STAIN_METHODS.items():
        assert config.__dataclass_fields__["method"].default == name
    assert isinstance(make_method(FastCutConfig(**options()), processes), Cut)


def test_what_an_optimiser_steps_is_kept_and_nothing_is_stepped_twice(processes):
    for name in ("cut", "cyclegan"):
        method = make_method(STAIN_METHODS[name](**options()), processes)
        stepped = [p for o in method.optimizers.values() for g in o.param_groups for p in g["params"]]
        kept = list(method.nets.parameters())
        assert len(stepped) == len({id(p) for p in stepped}) == len(kept)
        assert {id(p) for p in stepped} == {id(p) for p in kept}
        assert all(p.requires_grad for p in kept)
