import pytest
import torch
from torch import nn

from wsigen.errors import InvalidValueError
from wsigen.stain.networks.blocks import initialise
from wsigen.stain.networks.discriminator import PatchDiscriminator
from wsigen.stain.networks.generator import Generator


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
