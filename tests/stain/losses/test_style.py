import pytest
import torch

from wsigen.errors import InvalidValueError
from wsigen.stain.losses.style import content_loss, stroke_loss, style_loss
from wsigen.stain.losses.vgg import VGG
from wsigen.stain.style.network import EPSILON


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


def image_of(h=16, w=24, b=2, seed=0):
    return torch.rand(b, 3, h, w, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def as_it_is(x):
    return [x]


def test_by_hand():
    patch = torch.tensor([0.0, 0.0, 1.0, 1.0]).reshape(1, 1, 1, 4).expand(1, 3, 2, 4)
    thumbnail = torch.tensor([0.0, 1.0]).reshape(1, 1, 1, 2).expand(1, 3, 1, 2)  # enlarged: 0, ¼, ¾, 1
    torch.testing.assert_close(stroke_loss(as_it_is, patch, thumbnail), torch.tensor(2 * 0.25**2 / 4))


def test_layers_weigh_the_same_whatever_their_size():
    def encoder(x):
        return [x, 3 * x[:, :1, ::2, ::2]]

    patch, thumbnail = torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 4, 4)
    assert stroke_loss(encoder, patch, thumbnail) == (1 + 9) / 2


def test_smooth_patch_of_its_own_thumbnail_costs_nothing():
    ramp = torch.linspace(-1, 1, 32).expand(1, 3, 32, 32)
    small = torch.nn.functional.avg_pool2d(ramp, 2)
    inside = stroke_loss(lambda x: [x[..., 1:-1]], ramp, small)  # at the ends bilinear interpolation is flat
    torch.testing.assert_close(inside, torch.tensor(0.0), atol=1e-12, rtol=0)


def test_finer_strokes_cost_more():
    torch.manual_seed(0)
    net = VGG((4, 0, 6), ["relu2_1"])
    thumbnail = image_of(8, 8)
    broad = torch.nn.functional.interpolate(thumbnail, scale_factor=4, mode="bilinear")
    fine = thumbnail.repeat(1, 1, 4, 4)  # the same strokes, a quarter the size
    assert stroke_loss(net, broad, thumbnail) < 1e-12
    assert stroke_loss(net, fine, thumbnail) > 1e-3


def test_thumbnail_of_the_same_size_is_a_plain_perceptual_loss():
    net = VGG((4, 0, 6), ["relu1_1", "relu2_1"])
    a, b = image_of(seed=1), image_of(seed=2)
    expected = sum((x - y).square().mean() for x, y in zip(net(a), net(b), strict=True)) / 2
    torch.testing.assert_close(stroke_loss(net, a, b), expected)


def test_gradient_reaches_the_patch_only():
    net = VGG((4, 0, 6), ["relu2_1"])
    patch, thumbnail = image_of().requires_grad_(), image_of(8, 12, seed=1).requires_grad_()
    stroke_loss(net, patch, thumbnail).backward()
    assert patch.grad.abs().sum() > 0
    assert thumbnail.grad is None


def test_batch_is_the_mean_of_its_images():
    net = VGG((4,), ["relu1_1"])
    patch, thumbnail = image_of(b=3), image_of(8, 12, b=3, seed=1)
    alone = [stroke_loss(net, patch[i : i + 1], thumbnail[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(stroke_loss(net, patch, thumbnail), sum(alone) / 3)


def test_autocast_averages_in_float32():
    net = VGG((4,), ["relu1_1"])
    patch, thumbnail = image_of(), image_of(8, 12, seed=1)
    exact = stroke_loss(net, patch, thumbnail)
    with torch.autocast("cpu", torch.bfloat16):
        rough = stroke_loss(net, patch, thumbnail)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.03, atol=0)


@pytest.mark.parametrize("size", [(8, 8), (32, 48), (16, 20)])
def test_thumbnail_of_another_shape_is_refused(size):
    with pytest.raises(InvalidValueError, match=r"the patch of 16 × 24 px, shrunk by one factor"):
        stroke_loss(as_it_is, image_of(), image_of(*size))
