import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tests.stain.models import small_generator
from tests.stain.networks.published import published
from wsigen.errors import InvalidValueError
from wsigen.stain.networks.generator import FAMILIES, Generator


def linear(net):
    """Without what mixes all pixels or hides gradients; positive weights, so that none cancel."""
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.InstanceNorm2d | nn.ReLU | nn.Tanh):
                setattr(parent, name, nn.Identity())
    for parameter in net.parameters():
        parameter.data.abs_()
    return net.double()


def reach(net, side, y, x):
    """How far left of, right of, above and below an output pixel the input matters."""
    picture = torch.zeros(1, 3, side, side, dtype=torch.float64, requires_grad=True)
    net(picture)[0, :, y, x].sum().backward()
    assert picture.grad is not None
    rows, cols = (picture.grad[0] != 0).any(0).nonzero().unbind(1)
    return int(max(y - rows.min(), rows.max() - y, x - cols.min(), cols.max() - x))


@pytest.mark.parametrize(
    ("family", "parameters", "keys", "gflop", "halo"),
    [
        ("cut", 11.38, 48, 513, 96),
        ("cyclegan", 11.38, 48, 396, 84),
        ("cut-antialias-up", 11.38, 48, None, 92),
        ("cut-antialias-down", 11.38, 48, None, 88),
        ("urust", 13.43, 56, 621, 96),
    ],
)
def test_published_sizes(family, parameters, keys, gflop, halo):
    with torch.device("meta"):
        net = Generator(family)
        with FlopCounterMode(display=False) as counter:
            net(torch.zeros(1, 3, 512, 512))
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, 2) == parameters
    assert len(net.state_dict()) == keys
    assert gflop is None or counter.get_total_flops() / 1e9 == pytest.approx(gflop, rel=2e-3)
    assert net.halo == halo
    norms = [m.num_features for m in net.modules() if isinstance(m, nn.InstanceNorm2d)]
    assert (len(norms), sum(norms)) == (23, 5248)
    assert not any(m.affine for m in net.modules() if isinstance(m, nn.InstanceNorm2d))


@pytest.mark.parametrize("family", FAMILIES)
def test_receptive_field_is_the_radius(family):
    net = linear(small_generator(family, width=1, blocks=1))
    side = 2 * net.halo + 16
    middle = net.halo + 4
    radii = [reach(net, side, middle + phase, middle + phase) for phase in range(4)]
    assert max(radii) == net.radius
    assert net.radius <= net.halo < net.radius + net.stride
    assert net.halo % net.stride == 0


def test_receptive_field_grows_by_eight_pixels_with_a_block():
    for blocks in (0, 2):
        net = linear(small_generator("cut", width=1, blocks=blocks))
        assert reach(net, 2 * net.halo + 8, net.halo, net.halo) <= net.radius == 21 + 8 * blocks


@pytest.mark.parametrize("family", FAMILIES)
def test_tile_with_its_halo_is_a_cut_of_the_whole(family):
    net = linear(small_generator(family, width=2, blocks=1))
    whole = torch.rand(1, 3, 160, 132, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    top, left, side, halo = 60, 48, 36, net.halo
    tile = whole[..., top - halo : top + side + halo, left - halo : left + side + halo]
    core = net(tile)[..., halo:-halo, halo:-halo]
    expected = net(whole)[..., top : top + side, left : left + side]
    torch.testing.assert_close(core, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [(16, 16), (20, 44), (64, 32)])
def test_same_picture_as_the_published_network(family, size):
    theirs = published(family)
    ours = Generator(family, width=4, blocks=2).eval()
    named = dict(zip(ours.state_dict(), theirs.parameters(), strict=True))  # both in order of the layers
    ours.load_state_dict(named)
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(2)) * 2 - 1
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_features_have_the_published_numbers():
    with torch.device("meta"):
        net, x = Generator(), torch.zeros(1, 3, 256, 256)
        shapes = [tuple(f.shape[1:]) for f in net.features(x, [0, 4, 8, 12, 16])]
    assert shapes == [(3, 262, 262), (128, 256, 256), (256, 128, 128), (256, 64, 64), (256, 64, 64)]


def test_features_lie_on_the_way_to_the_output():
    net = small_generator()
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    last = len(net.model) - 1
    pixels, conv, _, out = net.features(x, [0, 4, 5, last])
    assert torch.equal(pixels[..., 3:-3, 3:-3], x)
    assert torch.equal(pixels[..., 2, :], pixels[..., 4, :])  # a mirror at the first row
    half = net.model[3](net.model[2](net.model[1](pixels)))
    assert torch.equal(conv, nn.functional.conv2d(half, net.model[4].weight, net.model[4].bias, padding=1))
    assert torch.equal(out, net(x))


def test_features_before_a_rectifier_are_not_overwritten():
    net, x = small_generator(), torch.rand(1, 3, 32, 32) * 2 - 1
    norm, rectified = net.features(x, [2, 3])
    assert norm.min() < -0.5
    assert torch.equal(rectified, norm.relu())


def test_features_train_the_layers_before_them_alone():
    net = small_generator().requires_grad_(True)
    net.features(torch.rand(1, 3, 16, 16), [4])[0].square().mean().backward()
    trained = {name for name, p in net.named_parameters() if p.grad is not None}
    assert trained == {"model.1.weight", "model.1.bias", "model.4.weight", "model.4.bias"}


@pytest.mark.parametrize("layers", [[], [4, 0], [0, 0], [-1], [99]])
def test_layers_that_there_are_not(layers):
    with pytest.raises(InvalidValueError, match="layers must be rising numbers from 0 to 24"):
        small_generator().features(torch.zeros(1, 3, 16, 16), layers)


def test_dropout_acts_while_training_alone():
    net = small_generator(dropout=True)
    x = torch.rand(1, 3, 16, 16)
    assert torch.equal(net(x), net(x))
    assert "model.12.conv_block.6.weight" in net.state_dict()
    net.train()
    assert not torch.equal(net(x), net(x))


def test_affine_norms_scale_and_shift():
    net = small_generator(affine=True)
    last = [m for m in net.modules() if isinstance(m, nn.InstanceNorm2d)][-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.fill_(-1)  # rectified to nothing: what is left is the last convolution's bias
    net.model[-2].bias.data = torch.tensor([0.0, 0.5, -0.5])
    expected = torch.tensor([0.0, 0.5, -0.5]).tanh()[None, :, None, None].expand(1, 3, 16, 16)
    torch.testing.assert_close(net(torch.rand(1, 3, 16, 16)), expected)


def test_without_bias_only_the_last_convolution_has_one():
    assert [n for n in small_generator(bias=False).state_dict() if n.endswith("bias")] == ["model.23.bias"]


@pytest.mark.parametrize("size", [(15, 16), (16, 18), (12, 12), (0, 16)])
def test_sizes_that_cannot_be(size):
    with pytest.raises(InvalidValueError, match=r"multiples of 4 px and at least 16 px, got \d+ × \d+"):
        small_generator()(torch.zeros(1, 3, *size))


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"family": "unet"}, "family must be one of cut, cyclegan"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"blocks": -1}, "blocks must be at least 0"),
        ({"in_channels": 0}, "in_channels"),
        ({"patch_size": 8}, "patch_size must be at least 16"),
        ({"marker": "a/b"}, "marker must be letters"),
        ({"marker": ""}, "marker must be letters"),
        ({"norm": "batch"}, "norm must be instance, or none"),
        ({"norm": "none", "affine": True}, "norm must be instance, or none and then not affine"),
        ({"padding": "replicate"}, "padding must be reflect or zero"),
        ({"mpp": 0.0}, "mpp must be a positive"),
        ({"mpp_range": (2.0, 1.0)}, "mpp_range must be two rising"),
    ],
)
def test_configurations_that_cannot_be(config, named):
    with pytest.raises(InvalidValueError, match=named):
        Generator(**{"width": 4, "blocks": 1, **config})


@pytest.mark.parametrize("marker", ["SYN", "Ki-67", "CD3+CD8", "p53_2"])
def test_markers_become_file_names(marker):
    assert Generator(width=1, blocks=0, marker=marker).config["marker"] == marker


@pytest.mark.parametrize(
    ("family", "padding"), [*((family, "reflect") for family in FAMILIES), ("cut", "zero")]
)
@pytest.mark.parametrize("place", [(0, 0, 96, 96), (60, 44, 64, 108), (100, 84, 92, 76)])
def test_tiles_agree_to_the_last_bit(family, padding, place):
    net = small_generator(family, width=8, blocks=1, padding=padding)
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.InstanceNorm2d):
                setattr(parent, name, nn.Identity())
    whole = torch.rand(1, 3, 192, 160, generator=torch.Generator().manual_seed(3)) * 2 - 1
    y, x, height, width = place
    top, left = max(0, y - net.halo), max(0, x - net.halo)
    tile = net(whole[..., top : y + height + net.halo, left : x + width + net.halo])
    core = tile[..., y - top : y - top + height, x - left : x - left + width]
    assert torch.equal(core, net(whole)[..., y : y + height, x : x + width])
