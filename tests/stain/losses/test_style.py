import torch

from wsigen.stain.losses.style import content_loss, style_loss
from wsigen.stain.style.adain import EPSILON


def test_content_loss_by_hand():
    assert content_loss(torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[3.0, 2.0]]]])).item() == 2.0


def test_style_loss_by_hand():
    first = torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([[[[5.0, 5.0]]]])  # μ 2 and 5, σ 1 and 0
    second = (
        torch.tensor([[[[0.0], [4.0]]]]),
        torch.tensor([[[[0.0, 4.0, 2.0, 2.0]]]]),
    )  # μ 2 and 2, σ 2 and √2
    expected = (2 - 5) ** 2 + ((1 + EPSILON) ** 0.5 - EPSILON**0.5) ** 2
    expected += ((4 + EPSILON) ** 0.5 - (2 + EPSILON) ** 0.5) ** 2
    found = style_loss([first[0], second[0]], [first[1], second[1]])
    torch.testing.assert_close(found, torch.tensor(expected))


def test_layers_and_channels_count_alike():
    # a layer of many channels must not outweigh one of few: the mean over channels, the sum over layers
    a, b = torch.zeros(1, 2, 4, 4), torch.zeros(1, 64, 2, 2)
    torch.testing.assert_close(style_loss([a, b], [a + 1, b + 1]), torch.tensor(2.0))


def test_style_loss_of_a_picture_with_its_own_pixels_in_another_order_is_zero():
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(style_loss([x], [x.flip(2).transpose(2, 3)]), torch.tensor(0.0))
