import pytest
import torch
from torch import nn

from wsigen.errors import InvalidValueError
from wsigen.stain.networks.blocks import initialise
from wsigen.stain.networks.discriminator import PatchDiscriminator


def test_published_size():
    with torch.device("meta"):
        net = PatchDiscriminator()
        assert net(torch.zeros(2, 3, 256, 256)).shape == (2, 1, 30, 30)
    assert sum(p.numel() for p in net.parameters()) == 2_764_737
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.stride[0]) for c in convs] == [
        (3, 64, 2),
        (64, 128, 2),
        (128, 256, 2),
        (256, 512, 1),
        (512, 1, 1),
    ]


@pytest.mark.parametrize(("layers", "sees"), [(1, 16), (2, 34), (3, 70)])
def test_every_verdict_sees_its_patch_alone(layers, sees):
    net = PatchDiscriminator(width=1, layers=layers)
    net.model = nn.Sequential(*(m for m in net.model if isinstance(m, nn.Conv2d)))
    for p in net.parameters():
        p.data.fill_(0.1)
    x = torch.zeros(1, 3, 160, 160, requires_grad=True)
    verdicts = net(x)
    middle = verdicts.shape[-1] // 2
    verdicts[0, 0, middle, middle].backward()
    assert x.grad is not None
    rows, cols = (x.grad[0, 0] != 0).nonzero().unbind(1)
    assert (int(rows.max() - rows.min()) + 1, int(cols.max() - cols.min()) + 1) == (sees, sees)


def test_first_and_last_layer_are_not_normalised():
    norms = [
        m.num_features for m in PatchDiscriminator(width=4).modules() if isinstance(m, nn.InstanceNorm2d)
    ]
    assert norms == [8, 16, 32]


def test_antialiased_has_the_same_weights_and_blurs_instead_of_striding():
    nets = [initialise(PatchDiscriminator(width=2, antialias=a), gain=1.0) for a in (False, True)]
    assert [p.shape for p in nets[0].parameters()] == [p.shape for p in nets[1].parameters()]
    x = torch.rand(1, 3, 64, 64)
    assert nets[0](x).shape == nets[1](x).shape == (1, 1, 6, 6)
    shifted = [(net(x.roll(1, -1)) - net(x))[..., 2:-2].abs().mean() for net in nets]
    assert shifted[1] < shifted[0]


def test_widths_stop_at_eight_times_the_first():
    net = PatchDiscriminator(width=2, layers=5)
    assert [m.out_channels for m in net.modules() if isinstance(m, nn.Conv2d)] == [2, 4, 8, 16, 16, 16, 1]


@pytest.mark.parametrize("bad", [{"width": 0}, {"layers": 0}, {"in_channels": 0}])
def test_numbers_that_cannot_be(bad):
    with pytest.raises(InvalidValueError, match=f"{next(iter(bad))} must be at least 1, got 0"):
        PatchDiscriminator(**bad)
