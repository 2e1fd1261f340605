import pytest
import torch

from wsigen.errors import InvalidValueError
from wsigen.stain.style.network import (
    RADIUS,
    StyleModel,
    decoder_channels,
    encoder_channels,
)


def model(width=4, seed=0):
    torch.manual_seed(seed)
    return StyleModel(width=width).eval().requires_grad_(False)


def test_channels_are_those_of_vgg19_and_its_mirror():
    down = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), *[(256, 256)] * 3, (256, 512)]
    up = [(512, 256), *[(256, 256)] * 3, (256, 128), (128, 128), (128, 64), (64, 64), (64, 3)]
    assert encoder_channels(64) == down
    assert decoder_channels(64) == up


def test_encoder_is_vgg19_written_out():
    net = model().encoder
    x = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(1)) * 2 - 1
    layers = [net.colour]
    for i, conv in enumerate(net.convs):
        layers += [torch.nn.MaxPool2d(2)] if i in (2, 4, 8) else []
        layers += [conv, torch.nn.ReLU()]
    up_to = (3, 8, 13, len(layers))  # relu1_1, relu2_1, relu3_1, relu4_1
    expected = [torch.nn.Sequential(*layers[:n])(x) for n in up_to]
    for found, wanted in zip(net.features(x), expected, strict=True):
        torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(net(x), expected[-1])


def test_feature_scales():
    shapes = [tuple(f.shape[1:]) for f in model().encoder.features(torch.zeros(1, 3, 32, 64))]
    assert shapes == [(4, 32, 64), (8, 16, 32), (16, 8, 16), (32, 4, 8)]


def test_untrained_colours_are_left_alone():
    x = torch.rand(1, 3, 16, 16)
    assert torch.equal(model().encoder.colour(x), x)


def test_nothing_beyond_the_radius_is_felt_and_the_radius_is_tight():
    net = model().double()
    x = torch.randn(1, 3, 192, 192, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    top, left, side = 80, 88, 8  # a core that starts and ends at multiples of 8
    before = net(x)[..., top : top + side, left : left + side]
    felt = []
    for distance in (RADIUS + 1, RADIUS):
        outside = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.double)
        rows = slice(top - distance + 1, top + side + distance - 1)
        cols = slice(left - distance + 1, left + side + distance - 1)
        outside[..., rows, cols] = x[..., rows, cols]
        after = net(outside)[..., top : top + side, left : left + side]
        felt.append((after - before).abs().max().item())
    assert felt[0] == 0
    assert felt[1] > 0
    assert net.halo == 64
    assert net.stride == 8


@pytest.mark.parametrize("size", [(20, 16), (16, 12), (8, 64)])
def test_sizes_that_cannot_be(size):
    with pytest.raises(InvalidValueError, match=rf"multiples of 8 and at least 16 px, got {size[0]} x"):
        model().encoder(torch.zeros(1, 3, *size))


def test_gradients_reach_every_parameter():
    torch.manual_seed(0)
    net = StyleModel(width=4)
    net(torch.rand(1, 3, 32, 32)).square().mean().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("record", [{"width": 0}, {"mpp": -0.5}, {"mpp": float("nan")}])
def test_numbers_that_cannot_be(record):
    with pytest.raises(InvalidValueError, match=f"{next(iter(record))} must be positive"):
        StyleModel(**{"width": 4, **record})
