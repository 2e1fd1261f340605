"""One interface for any network: what is measured, passed in and rendered."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from torch import Tensor, nn

from tests.stain.normalise.networks import Shared, UNet, generator
from wsigen.errors import InvalidValueError
from wsigen.stain.normalise import Axis, Field, LayerStats, NormLayers
from wsigen.stain.normalise.passes import pixels_per_feature

ALONE = Axis((0.0,))


def images(batch: int = 2, height: int = 96, width: int = 128) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(5)) * 2 - 1


def one_node(stats: list[LayerStats], patch: int = 0) -> list[Field]:
    return [Field(s.mean[patch, None, None], s.inv_std[patch, None, None], ALONE, ALONE) for s in stats]


def table(layers: NormLayers, image: Tensor, pitch: int, interpolation="linear") -> list[Field]:
    """Fields of an image's patches of side ``pitch``."""
    rows, cols = image.shape[2] // pitch, image.shape[3] // pitch
    patches = image.unfold(2, pitch, pitch).unfold(3, pitch, pitch).permute(2, 3, 0, 1, 4, 5).flatten(0, 2)
    axes = [Axis(tuple((i + 0.5) * pitch for i in range(n))) for n in (rows, cols)]
    return [
        Field(s.mean.unflatten(0, (rows, cols)), s.inv_std.unflatten(0, (rows, cols)), *axes, interpolation)
        for s in layers.measure(patches)
    ]


@pytest.fixture(params=["generator", "affine generator", "u-net", "shared"])
def net(request) -> nn.Module:
    torch.manual_seed(0)
    made = {
        "generator": generator,
        "affine generator": lambda: generator(affine=True),
        "u-net": UNet,
        "shared": Shared,
    }
    return made[request.param]().eval()


def plain(net: nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return net(x)


def test_replacing_leaves_the_network_as_it_was(net):
    before, x = copy.deepcopy(net), images()
    NormLayers(net)
    NormLayers(net)
    assert net.state_dict().keys() == before.state_dict().keys()
    assert sum(isinstance(m, nn.InstanceNorm2d) for m in net.modules()) == sum(
        isinstance(m, nn.InstanceNorm2d) for m in before.modules()
    )
    assert torch.equal(plain(net, x), plain(before, x))
    assert torch.equal(plain(copy.deepcopy(net), x), plain(before, x))
    net(x).sum().backward()
    before(x).sum().backward()
    for a, b in zip(net.parameters(), before.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None)
        assert a.grad is None or b.grad is None or torch.equal(a.grad, b.grad)


def test_one_node_is_instance_normalisation(net):
    """DN of one node = KIN of size 1 = instance, bit for bit; nn.InstanceNorm2d but for rounding."""
    x = images(1)
    expected = plain(net, x)
    layers = NormLayers(net)
    first = layers.instance(x)  # nothing overwritten yet
    stats = layers.measure(x)
    rendered = layers.render(x, one_node(stats), [(512, 64)])
    assert torch.equal(layers.instance(x), first)
    assert torch.equal(rendered, first)
    torch.testing.assert_close(first, expected, rtol=0, atol=5e-6)


def test_measured_statistics_are_those_of_each_layers_input(net):
    """Hooks on an untouched copy of the network see what the layers normalise."""
    seen = []
    reference = copy.deepcopy(net)
    for module in reference.modules():
        if isinstance(module, nn.InstanceNorm2d):
            module.register_forward_pre_hook(
                lambda _, args: seen.append(args[0].detach().double().flatten(2))
            )
    plain(reference, images())
    layers = NormLayers(net)
    for stats in (layers.measure(images()), layers.measure(images())):  # the second stops at the last layer
        assert len(stats) == len(seen) == len(layers.names)
        for found, x, channels in zip(stats, seen, layers.channels, strict=True):
            assert found.mean.shape == (2, channels)
            torch.testing.assert_close(found.mean.double(), x.mean(2), rtol=1e-5, atol=1e-5)
            expected = (x.var(2, correction=0) + 1e-5).rsqrt()
            torch.testing.assert_close(found.inv_std.double(), expected, rtol=1e-4, atol=1e-5)


def test_names_go_by_call():
    layers = NormLayers(Shared())
    assert layers.names == ("norm",)
    layers.measure(images())
    assert layers.names == ("norm", "norm:2", "norm:3")
    assert layers.channels == (5, 5, 5)
    unet = NormLayers(UNet())
    assert "spare" in unet.names
    unet.measure(images())
    assert unet.names == ("down.0.1", "down.1.1", "down.2.1", "up.2.1", "up.1.1", "up.0.1")
    assert unet.channels == (4, 8, 16, 8, 4, 4)


@pytest.mark.parametrize("interpolation", ["linear", "nearest"])
def test_any_batch_and_tiling_of_a_pointwise_network_is_the_whole(interpolation):
    """Without convolutions to see a tile's edge, tiles of odd and even size must give the same bits."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.InstanceNorm2d(3, affine=True), nn.ReLU(), nn.InstanceNorm2d(3), nn.Tanh())
    layers = NormLayers(net)
    x = images(1, 128, 192)
    fields = table(layers, x, 64, interpolation)
    whole = layers.render(x, fields, [(0, 0)])
    for height, width in ((128, 64), (31, 57), (32, 48)):
        origins = [(y, z) for y in range(0, 128 - height + 1, height) for z in range(0, 193 - width, width)]
        tiles = torch.cat([x[:, :, y : y + height, z : z + width] for y, z in origins])
        for tile, (y, z) in zip(layers.render(tiles, fields, origins), origins, strict=True):
            assert torch.equal(tile, whole[0, :, y : y + height, z : z + width])


def test_tiles_with_a_halo_give_the_bits_of_the_whole_image():
    torch.manual_seed(2)
    net, x = generator(), images(1, 256, 320)
    layers = NormLayers(net)
    fields = table(layers, x, 64)
    whole = layers.render(x, fields, [(0, 0)])
    reach = 12  # the receptive field reaches 8 px
    for y, z, size in ((0, 0, 128), (100, 60, 128), (128, 192, 128), (60, 100, 156)):
        top, left = max(0, y - reach), max(0, z - reach)
        tile = x[:, :, top : y + size + reach, left : z + size + reach]
        out = layers.render(tile, fields, [(top, left)])
        core = out[:, :, y - top : y - top + size, z - left : z - left + size]
        assert torch.equal(core, whole[:, :, y : y + size, z : z + size])


def test_features_of_half_the_size_see_the_field_at_global_coordinates():
    """A network that only halves: its field evaluated by hand at every feature."""
    net = nn.Sequential(nn.AvgPool2d(2), nn.InstanceNorm2d(3))
    layers = NormLayers(net)
    rows, cols = Axis((10.0, 50.0)), Axis((0.0, 100.0))
    mean = torch.tensor([[0.0, 1.0], [2.0, 3.0]])[:, :, None].expand(2, 2, 3)
    x = images(1, 32, 48)
    out = layers.render(x, [Field(mean, torch.full_like(mean, 2.0), rows, cols)], [(20, 40)])
    y = ((20 + (torch.arange(16) + 0.5) * 2 - 10) / 40).clamp(max=1)  # the last row lies beyond the node
    z = (40 + (torch.arange(24) + 0.5) * 2) / 100
    expected = (nn.functional.avg_pool2d(x, 2) - (2 * y[:, None] + z)) * 2
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize(
    ("pixels", "features", "scale"),
    [
        (512, 128, 4),
        (255, 128, 2),
        (255, 127, 2),
        (131, 131, 1),
        (64, 128, 0.5),
        (63, 127, 0.5),
        (90, 60, 1.5),
    ],
)
def test_pixels_per_feature(pixels, features, scale):
    assert pixels_per_feature(pixels, features) == scale


@pytest.mark.parametrize("size", [(65, 47), (64, 47), (33, 80)])
def test_odd_sizes(size):
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), nn.InstanceNorm2d(4), nn.Conv2d(4, 4, 3), nn.InstanceNorm2d(4)
    )
    layers = NormLayers(net)
    x = images(2, *size)
    fields = one_node(layers.measure(x[:1]))
    out = layers.render(x, fields, [(0, 0), (4, 8)])
    torch.testing.assert_close(out[:1], plain(net, x[:1]), rtol=0, atol=5e-6)
    torch.testing.assert_close(out[1:], layers.render(x[1:], fields, [(0, 0)]), rtol=0, atol=5e-6)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_bfloat16_networks_measure_in_float32_and_answer_in_bfloat16(net, layout):
    exact = NormLayers(copy.deepcopy(net))
    x = images(1)
    half = NormLayers(net.bfloat16().to(memory_format=layout))
    y = x.bfloat16().contiguous(memory_format=layout)
    stats = half.measure(y)
    assert {s.mean.dtype for s in stats} == {s.inv_std.dtype for s in stats} == {torch.float32}
    for a, b in zip(stats, exact.measure(x), strict=True):
        torch.testing.assert_close(a.mean, b.mean, rtol=0.05, atol=0.05)
        torch.testing.assert_close(a.inv_std, b.inv_std, rtol=0.1, atol=0.05)
    rendered = half.render(y, one_node(stats), [(0, 0)])
    assert rendered.dtype == torch.bfloat16
    torch.testing.assert_close(rendered.float(), exact.instance(x), rtol=0, atol=0.15)
    assert torch.equal(rendered, half.instance(y))


def test_inputs_are_never_written_to(net):
    layers, x = NormLayers(net), images(1)
    kept = x.clone()
    for _ in range(2):
        fields = one_node(layers.measure(x))
        layers.render(x, fields, [(0, 0)])
        layers.instance(x)
    assert torch.equal(x, kept)


def test_passes_in_two_threads_do_not_see_each_other():
    torch.manual_seed(4)
    layers = NormLayers(generator())
    x = images(1)
    fields = [one_node(layers.measure(x)), one_node(layers.measure(0.3 * x - 0.5))]
    expected = [layers.render(x, f, [(0, 0)]) for f in fields]
    wrong = []

    def work(i: int) -> None:
        for _ in range(5):
            if not torch.equal(layers.render(x, fields[i], [(0, 0)]), expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert not torch.equal(*expected)


def test_constant_patches_are_no_nan():
    torch.manual_seed(5)
    layers = NormLayers(generator(affine=True))
    white = torch.ones(1, 3, 64, 64)
    stats = layers.measure(white)
    assert all(torch.isfinite(s.mean).all() and torch.isfinite(s.inv_std).all() for s in stats)
    assert torch.isfinite(layers.render(white, one_node(stats), [(0, 0)])).all()


def test_a_norm_layer_alone_is_a_network():
    layers = NormLayers(nn.InstanceNorm2d(3))
    x = images()
    torch.testing.assert_close(layers.instance(x), nn.functional.instance_norm(x), rtol=0, atol=2e-6)
    assert len(layers.measure(x)) == 1


def test_networks_that_cannot_be_normalised():
    with pytest.raises(InvalidValueError, match=r"Sequential has no nn.InstanceNorm2d"):
        NormLayers(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)))
    with pytest.raises(InvalidValueError, match=r"layer 0 keeps running statistics"):
        NormLayers(nn.Sequential(nn.InstanceNorm2d(3, track_running_stats=True)))

    class Own(nn.InstanceNorm2d):
        pass

    with pytest.raises(InvalidValueError, match=r"layer 0 is a Own"):
        NormLayers(nn.Sequential(Own(3)))


def test_layers_that_are_never_called_or_given_something_else():
    net = generator()
    net.forward = lambda x: x  # pyright: ignore
    with pytest.raises(InvalidValueError, match="calls none of its norm layers"):
        NormLayers(net).measure(images())
    folding = nn.Sequential(nn.Unflatten(0, (-1, 2)), nn.Flatten(1, 2), nn.InstanceNorm2d(6))
    with pytest.raises(InvalidValueError, match=r"layer 2 .*\(1, 6, 96, 128\).* each of the 2 tiles"):
        NormLayers(folding).measure(images())


def test_fields_must_fit_the_network():
    layers = NormLayers(generator())
    x = images()
    fields = one_node(layers.measure(x))
    with pytest.raises(InvalidValueError, match="one origin for each of 2 tiles, got 1"):
        layers.render(x, fields, [(0, 0)])
    with pytest.raises(InvalidValueError, match=r"more norm layers than there are fields \(3\)"):
        layers.render(x, fields[:3], [(0, 0)] * 2)
    with pytest.raises(InvalidValueError, match="calls 4 norm layers, but there are 5 fields"):
        layers.render(x, [*fields, fields[0]], [(0, 0)] * 2)
    with pytest.raises(InvalidValueError, match="layer 1 has 6 channels, but its field 12"):
        layers.render(x, fields[::-1][1:] + fields[-1:], [(0, 0)] * 2)


def test_a_network_must_call_its_layers_in_the_same_order_always():
    class Moody(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.InstanceNorm2d(3), nn.InstanceNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x)) if x.mean() > 0 else self.a(self.b(x))

    layers = NormLayers(Moody())
    layers.measure(torch.ones(1, 3, 8, 8))
    with pytest.raises(InvalidValueError, match="called norm layer b where it called a before"):
        layers.measure(-torch.ones(1, 3, 8, 8))
