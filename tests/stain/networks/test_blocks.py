import pytest
import torch
import torch.nn.functional as F

from wsigen.stain.networks.blocks import BlurDown, BlurUp, LearnedUp, ResnetBlock, StridedUp, binomial


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
