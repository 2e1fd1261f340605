import pytest
import torch
from torch import nn

from wsigen.errors import SnapshotError
from wsigen.nn.denoiser import Denoiser
from wsigen.nn.snapshot import load_snapshot, save_snapshot
from wsigen.nn.upscaler import Upscaler

SHAPES = [
    {"channels": (8,), "blocks": (1,), "head_channels": (8, 8)},
    {"channels": (8, 8), "blocks": (1, 2), "head_channels": (8, 8)},
    {"channels": (8, 8, 8), "blocks": (2, 3, 2), "head_channels": (8, 8)},
    {"channels": (8, 8), "blocks": (1, 1), "head_channels": (8, 8), "k": 4},
]


def make(seed: int = 0, **shape) -> Upscaler:
    """A network all of whose layers matter: the residual blocks begin nearly silent."""
    torch.manual_seed(seed)
    net = Upscaler(**{"channels": (8, 16), "blocks": (1, 1), "head_channels": (8, 8), **shape})
    for block in net.modules():
        if hasattr(block, "gain"):
            nn.init.ones_(block.gain)
            nn.init.normal_(block.modulation.weight, std=0.1)
    return net.eval().requires_grad_(False)


def inputs(net: Upscaler, side: int, seed: int = 0, dtype=torch.float32):
    torch.manual_seed(seed)
    y = torch.rand(1, 3, side, side, dtype=dtype) * 2 - 1
    return y, torch.randn(1, net.noise_channels, side, side, dtype=dtype), torch.ones(1, dtype=dtype)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_pixel_depends_on_a_square_of_the_stated_radius_and_no_smaller_one(shape):
    net = make(**shape).double()
    side = -(-(4 * net.radius + 8) // net.stride) * net.stride
    middle = side // 2 // net.stride * net.stride  # output pixels of a whole cell, at every phase
    y, z, mpp = inputs(net, side, dtype=torch.float64)
    y, z = y.requires_grad_(True), z.requires_grad_(True)
    out, furthest = net(y, z, mpp), 0
    for at in range(net.k * middle, net.k * (middle + net.stride)):
        for spot in ((at, net.k * middle), (net.k * middle, at)):
            gradients = torch.autograd.grad(out[0, :, spot[0], spot[1]].sum(), (y, z), retain_graph=True)
            seen = sum(g.abs().sum((0, 1)) for g in gradients).nonzero()
            own = torch.tensor([spot[0] // net.k, spot[1] // net.k])
            furthest = max(furthest, int((seen - own).abs().max()))
    assert furthest == net.radius


def test_default_network_has_the_radius_that_tiles_count_on():
    net = Upscaler()
    assert (net.radius, net.stride, net.k, net.noise_channels) == (43, 4, 2, 9)


def test_a_tile_with_its_halo_gives_the_pixels_of_the_whole():
    net = make(channels=(8, 16, 16), blocks=(1, 1, 1))
    y, z, mpp = inputs(net, 192)
    halo = -(-net.radius // net.stride) * net.stride
    whole = net(y, z, mpp)
    cut = (slice(None), slice(None), slice(64 - halo, 128 + halo), slice(64 - halo, 128 + halo))
    part = net(y[cut], z[cut], mpp)[..., 2 * halo : -2 * halo, 2 * halo : -2 * halo]
    torch.testing.assert_close(part, whole[..., 128:256, 128:256], rtol=0, atol=1e-5)


def test_without_what_it_adds_it_is_the_bilinear_guide():
    net = make()
    nn.init.zeros_(net.out.weight)
    nn.init.zeros_(net.out.bias)
    y, z, mpp = inputs(net, 16)
    expected = nn.functional.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(net(y, z, mpp), expected, rtol=0, atol=1e-6)


def test_noise_and_scale_change_what_is_drawn():
    net = make()
    y, z, mpp = inputs(net, 16)
    drawn = net(y, z, mpp)
    assert (net(y, z.flip(2), mpp) - drawn).abs().mean() > 1e-3
    assert (net(y, z, 2 * mpp) - drawn).abs().mean() > 1e-4  # its blocks begin unmodulated
    both = net(torch.cat([y, y]), torch.cat([z, z]), torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(both[0], drawn[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(both[1], net(y, z, 2 * mpp)[0], rtol=0, atol=1e-5)


def test_snapshot_gives_the_same_network(tmp_path):
    net = make(k=4)
    save_snapshot(net, tmp_path / "up")
    loaded = load_snapshot(Upscaler, tmp_path / "up")
    y, z, mpp = inputs(net, 16)
    assert loaded.k == 4
    assert all(torch.equal(v, loaded.state_dict()[name]) for name, v in net.state_dict().items())
    # Not bit for bit: kernels round by how weights lie in memory, and a file's lie as the file has them.
    torch.testing.assert_close(loaded(y, z, mpp), net(y, z, mpp), rtol=0, atol=1e-6)
    with pytest.raises(SnapshotError, match="holds a Upscaler, not a Denoiser"):
        load_snapshot(Denoiser, tmp_path / "up")
