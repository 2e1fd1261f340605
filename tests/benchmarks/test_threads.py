"""Operators that round with the number of threads are told from others."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.threads import agree, compare


def test_only_what_differs_is_named():
    before = torch.get_num_threads()
    noise = torch.Generator().manual_seed(0)

    def run() -> None:
        x = torch.rand(3, 4) * torch.get_num_threads()  # what draws, and what computes on it
        x.add_(torch.full((3, 4), float(torch.get_num_threads())))
        torch.rand(3, 4, generator=noise).sum()

    found = compare(run, 2)
    assert {differing for differing, _ in found.values()} == {0}
    assert found["aten.sum.default"] == (0, 1)
    assert not {name for name in found if "rand" in name or "add_" in name}
    assert torch.get_num_threads() == before


@torch.library.custom_op("wsigen_tests::times_threads", mutates_args=())
def times_threads(x: Tensor) -> Tensor:
    """What rounds with the number of threads, in the extreme."""
    return x * torch.get_num_threads()


def test_results_of_whole_networks_are_compared():
    assert agree(lambda: torch.ones(2, 3), 2)
    assert not agree(lambda: times_threads(torch.ones(2, 3)), 2)


def test_what_follows_a_difference_does_not_differ():
    found = compare(lambda: times_threads(torch.ones(2, 3)).sum(), 2)
    assert found["wsigen_tests.times_threads.default"] == (1, 1)
    assert found["aten.sum.default"] == (0, 1)
