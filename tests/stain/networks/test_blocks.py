import pytest
import torch
import torch.nn.functional as F
from torch import nn

from wsigen.errors import InvalidValueError
from wsigen.stain.networks import blocks
from wsigen.stain.networks.blocks import (
    BlurDown,
    BlurUp,
    LearnedDown,
    LearnedUp,
    ResnetBlock,
    StridedUp,
    binomial,
    initialise,
)
from wsigen.stain.networks.discriminator import PatchDiscriminator
from wsigen.stain.networks.generator import Generator


def test_filters_are_those_of_the_papers():
    torch.testing.assert_close(
        binomial((1, 2, 1))[0, 0] * 16, torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]])
    )
    up = binomial((1, 3, 3, 1), 4.0)[0, 0] * 16
    torch.testing.assert_close(up, torch.tensor([[1.0, 3, 3, 1], [3, 9, 9, 3], [3, 9, 9, 3], [1, 3, 3, 1]]))


def test_blur_down_by_hand():
    x = torch.arange(4.0).expand(1, 2, 4, 4)  # columns 0 1 2 3; mirrored to the left: 1 0 1 2 3
    expected = torch.tensor([(1 + 0 + 1) / 4, (1 + 4 + 3) / 4]).expand(1, 2, 2, 2)
    torch.testing.assert_close(BlurDown()(x), expected)


@pytest.mark.parametrize("size", [(64, 60), (63, 61)])
@pytest.mark.parametrize("kind", [BlurDown, lambda: LearnedDown(48)])
def test_halving_by_bands_is_halving_at_once(kind, size, monkeypatch):
    down, x = kind(), torch.rand(2, 48, *size, generator=torch.Generator().manual_seed(0))
    weight = getattr(down, "weight", None)
    if weight is None:
        expected = F.conv2d(F.pad(x, [1] * 4, "reflect"), down.filt.expand(48, 1, 3, 3), stride=2, groups=48)
    else:
        expected = F.conv2d(F.pad(x, [1] * 4, "reflect"), weight, down.bias, stride=2)
    heights = []
    monkeypatch.setattr(blocks, "_BAND", 2 * 48 * 30 * 61)
    padded = F.pad
    monkeypatch.setattr(blocks.F, "pad", lambda v, *a, **k: heights.append(v.shape[2]) or padded(v, *a, **k))
    with torch.no_grad():
        assert torch.equal(down(x), expected)
    assert torch.equal(down(x), expected)
    assert heights == [32, 33 if size[0] == 64 else 32, size[0]]  # one row above the second band; then all


def test_blur_up_is_bilinear_enlargement():
    x = torch.rand(2, 3, 5, 8)
    expected = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(BlurUp()(x), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blurs_keep_a_constant(dtype):
    x = torch.full((1, 3, 8, 8), 0.75, dtype=dtype)
    assert torch.equal(BlurDown().to(dtype)(x), x[..., :4, :4])
    assert torch.equal(BlurUp().to(dtype)(x), F.pad(x, (4, 4, 4, 4), mode="replicate"))


def test_blurs_leave_no_key():
    assert not BlurDown().state_dict()
    assert not BlurUp().state_dict()


def test_learned_up_with_the_blur_as_weights_is_the_blur():
    up = LearnedUp(2)
    up[1].weight.data = torch.einsum("ij,kl->ijkl", torch.eye(2), binomial((1, 3, 3, 1), 4.0)[0, 0])
    up[1].bias.data.zero_()
    x = torch.rand(1, 2, 6, 4)
    torch.testing.assert_close(up(x), BlurUp()(x))


def test_strided_up_is_a_transposed_convolution_with_output_padding():
    up = StridedUp(3, 2)
    x = torch.rand(2, 3, 5, 7)
    expected = F.conv_transpose2d(x, up.weight, up.bias, stride=2, padding=1, output_padding=1)
    torch.testing.assert_close(up(x), expected)
    assert StridedUp(3, 2, bias=False).bias is None


def test_strided_up_does_not_know_where_in_a_tile_a_pixel_lies():
    up = StridedUp(16, 8)
    x = torch.rand(1, 16, 96, 104)
    part = up(x[..., 8:80, 20:100])[..., 4:-4, 4:-4]
    assert torch.equal(part, up(x)[..., 20:156, 44:196])


def test_block_with_no_weights_hands_through():
    block = ResnetBlock(2)
    for parameter in block.parameters():
        parameter.data.zero_()
    x = torch.rand(1, 2, 8, 8)
    assert torch.equal(block(x), x)


def weights(net):
    return torch.cat([p.flatten() for p in net.parameters()])


def test_a_seed_gives_the_same_weights_and_touches_no_other_draw():
    torch.manual_seed(3)
    expected = torch.rand(1)
    nets = [initialise(Generator(width=4, blocks=1), seed) for seed in (5, 5, 6)]
    assert torch.equal(weights(nets[0]), weights(nets[1]))
    assert not torch.equal(weights(nets[0]), weights(nets[2]))
    net = Generator(width=4, blocks=1)
    torch.manual_seed(3)
    initialise(net)
    assert torch.equal(torch.rand(1), expected)


def test_normal_has_its_deviation_everywhere():
    net = initialise(Generator("urust", width=16, blocks=2, affine=True), kind="normal")
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and layer.weight.numel() > 1e4:
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
            assert layer.bias is not None
            assert not layer.bias.any()
        if isinstance(layer, nn.InstanceNorm2d):
            assert torch.equal(layer.weight, torch.ones_like(layer.weight))
            assert not layer.bias.any()


def test_xavier_depends_on_the_number_of_channels():
    net = initialise(PatchDiscriminator(width=16), kind="xavier", gain=0.02)
    conv = net.model[2]
    assert conv.weight.std().item() == pytest.approx(0.02 * (2 / (16 * 16 + 16 * 32)) ** 0.5, rel=0.05)


def test_linear_layers_too():
    layer = initialise(nn.Linear(200, 200), kind="normal")
    assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_no_such_kind():
    with pytest.raises(InvalidValueError, match="normal or xavier, got 'kaiming'"):
        initialise(nn.Linear(1, 1), kind="kaiming")
