import pytest
import torch
from torch import nn

from tests.stain.style.test_network import model
from wsigen.stain.style.network import FeatureStats, LikeReference, StyleModel, adain_map, feature_stats


class Blocks(nn.Module):
    """A toy encoder: 2×2 pixels of one colour become four channels, mixed by an orthogonal matrix."""

    def __init__(self, inverse=False):
        super().__init__()
        self.inverse = inverse
        matrix, _ = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(0)))
        self.register_buffer("matrix", matrix)

    def forward(self, x):
        if self.inverse:
            x = torch.einsum("ji,bjhw->bihw", self.matrix, x)
            return nn.functional.pixel_shuffle(x, 2)
        return torch.einsum("ij,bjhw->bihw", self.matrix, nn.functional.pixel_unshuffle(x, 2))


class Toy(StyleModel):
    stride, halo = 2, 0

    def __init__(self):
        super().__init__(width=1)
        self.encoder, self.decoder = Blocks(), Blocks(inverse=True)


def images(seed, *size):
    return torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def like(net, content, style, strength=1.0):
    return LikeReference(
        net, feature_stats(net.encoder(content)), feature_stats(net.encoder(style)), strength
    )


def test_like_itself_gives_itself_back():
    net, x = Toy(), images(0, 32, 32)
    torch.testing.assert_close(like(net, x, x)(x), x)


def test_strength_zero_gives_the_reconstruction():
    net, x = model(), images(0, 32, 32)
    assert torch.equal(like(net, x, images(1, 32, 32), 0.0)(x), net(x))


def test_it_is_encode_move_decode():
    net, x, style = model(), images(0, 32, 48), 0.3 * images(1, 24, 32) + 0.5
    stats = [feature_stats(net.encoder(i)) for i in (x, style)]
    expected = net.decoder(adain_map(*stats, 0.7)(net.encoder(x)))
    torch.testing.assert_close(LikeReference(net, *stats, 0.7)(x), expected)


def test_features_of_a_linear_encoder_get_the_statistics_of_the_reference():
    net, x, style = Toy(), images(0, 64, 64), 0.3 * images(1, 48, 32) + 0.5
    painted = feature_stats(net.encoder(like(net, x, style)(x)))
    wanted = feature_stats(net.encoder(style))
    torch.testing.assert_close(painted.mean, wanted.mean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(painted.std, wanted.std, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("tile", [64, 96, 128])
def test_tiles_with_a_halo_give_the_whole_image_bit_by_bit(tile):
    net, size = model(seed=2), (256, 320)
    x = images(0, *size)
    adapted = like(net, x, images(1, 64, 64))
    whole = adapted(x)
    for y in range(0, size[0], tile):
        for left in range(0, size[1], tile):
            y1, x1 = min(y + tile, size[0]), min(left + tile, size[1])
            top, start = max(0, y - adapted.halo), max(0, left - adapted.halo)
            part = adapted(x[..., top : y1 + adapted.halo, start : x1 + adapted.halo])
            core = part[..., y - top : y1 - top, left - start : x1 - start]
            assert torch.equal(core, whole[..., y:y1, left:x1])


def test_it_moves_with_its_device_and_keeps_the_model_as_it_is():
    net, x = model(), images(0, 32, 32)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    adapted = like(net, x, images(1, 32, 32))
    assert {"scale", "shift"} <= set(adapted.state_dict())
    adapted(x)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert adapted.double()(x.double()).dtype == torch.float64


def test_a_constant_image_stays_finite():
    net = model()
    flat = torch.full((1, 3, 32, 32), 0.8)
    stats = feature_stats(net.encoder(images(0, 32, 32)))
    out = LikeReference(net, feature_stats(net.encoder(flat)), stats)(images(1, 64, 64))
    assert torch.isfinite(out).all()
    blank = FeatureStats(stats.mean * 0, stats.std * 0 + 1e-5**0.5)
    assert torch.isfinite(LikeReference(net, stats, blank)(flat)).all()
