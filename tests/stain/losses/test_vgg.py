import urllib.error

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from wsigen.errors import InvalidValueError, SnapshotError
from wsigen.stain.losses.vgg import MEAN, PLANS, STD, VGG, layer_names, load_vgg, load_weights

SHALLOW = ("relu1_1", "pool1")
PLAN = (4, 4, 0, 6, 0)


@pytest.fixture(scope="module")
def state():
    """Weights of VGG16's first two convolutions and of what is not needed of it."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"features.0": (64, 3, 3, 3), "features.2": (64, 64, 3, 3), "classifier.0": (5, 7)}
    state = {f"{key}.weight": torch.randn(shape, generator=generator) for key, shape in shapes.items()}
    return state | {
        f"{key}.bias": torch.randn(shape[0], generator=generator) for key, shape in shapes.items()
    }


def expected(state, images):
    """relu1_1 and pool1 in plain steps."""
    x = (images / 2 + 0.5 - torch.tensor(MEAN).reshape(1, 3, 1, 1)) / torch.tensor(STD).reshape(1, 3, 1, 1)
    first = nn.functional.conv2d(x, state["features.0.weight"], state["features.0.bias"], padding=1).relu()
    second = nn.functional.conv2d(first, state["features.2.weight"], state["features.2.bias"], padding=1)
    return [first, nn.functional.max_pool2d(second.relu(), 2)]


def images(b=2):
    return torch.rand(b, 3, 8, 12, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize(("name", "key"), [("vgg16", "D"), ("vgg19", "E")])
def test_plans_are_those_of_torchvision(name, key):
    from torchvision.models.vgg import cfgs

    assert [0 if width == "M" else width for width in cfgs[key]] == list(PLANS[name])


def test_names_of_layers():
    names = layer_names(PLANS["vgg16"])
    assert names[:7] == ["conv1_1", "relu1_1", "conv1_2", "relu1_2", "pool1", "conv2_1", "relu2_1"]
    assert [names.index(n) for n in ("relu3_1", "relu4_1", "relu4_3", "pool5")] == [11, 18, 22, 30]
    assert [layer_names(PLANS["vgg19"]).index(n) for n in ("relu4_1", "relu5_4", "pool5")] == [20, 35, 36]


def test_modules_lie_where_torchvision_has_them():
    from torchvision.models.vgg import make_layers

    theirs = make_layers([4, 4, "M", 6, "M"])
    ours = VGG(PLAN, layer_names(PLAN)).features
    assert [type(m) for m in ours] == [type(m) for m in theirs]
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("prefix", ["features.", ""])
def test_weights_from_a_file(state, tmp_path, suffix, prefix):
    path = tmp_path / f"vgg{suffix}"
    kept = {k.replace("features.", prefix): v for k, v in state.items()}
    (save_file if suffix == ".safetensors" else torch.save)(kept, path)
    net = load_vgg(SHALLOW, weights=path)
    for found, wanted in zip(net(images()), expected(state, images()), strict=True):
        torch.testing.assert_close(found, wanted)


def test_features_come_in_the_order_asked_for(state):
    net = VGG(PLANS["vgg16"], SHALLOW[::-1])
    load_weights(net, state, "here")
    deep, shallow = net(images())
    assert net.channels == (64, 64)
    torch.testing.assert_close([shallow, deep], expected(state, images()))


def test_convolution_is_not_spoilt_by_its_relu():
    conv, relu = VGG(PLAN, ["conv1_1", "relu1_1"])(images())
    assert (conv < 0).any()
    assert torch.equal(conv.relu(), relu)


def test_channels_and_depth():
    net = VGG(PLAN, ["pool1", "relu2_1", "conv1_2"])
    assert net.channels == (4, 6, 4) == tuple(f.shape[1] for f in net(images()))
    assert len(net.features) == 7
    assert VGG(PLAN, ["pool2"]).channels == (6,)


def test_gradients_reach_the_images_only():
    net, x = VGG(PLAN, ["relu2_1"]), images().requires_grad_()
    net(x)[0].sum().backward()
    assert x.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in net.parameters())
    assert all(p.grad is None for p in net.parameters())


def test_input_of_mean_colour_is_zero():
    net = VGG((3,), ["conv1_1"])
    with torch.no_grad():
        net.features[0].weight.copy_(torch.eye(3)[:, :, None, None] * torch.eye(3)[1].outer(torch.eye(3)[1]))
        net.features[0].bias.zero_()
    mean = torch.tensor(MEAN)[None, :, None, None].expand(1, 3, 4, 4) * 2 - 1
    torch.testing.assert_close(net(mean)[0], torch.zeros(1, 3, 4, 4), atol=1e-6, rtol=0)
    brighter = net(mean + 2 * torch.tensor(STD)[:, None, None])[0]
    torch.testing.assert_close(brighter, torch.ones(1, 3, 4, 4), atol=1e-6, rtol=0)


def test_autocast():
    net = VGG(PLAN, ["relu2_1"])
    exact = net(images())[0]
    with torch.autocast("cpu", torch.bfloat16):
        rough = net(images())[0]
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), exact, atol=0.02, rtol=0.1)


def test_checkpoints_carry_no_constants():
    assert sorted(VGG((4,), ["relu1_1"]).state_dict()) == ["features.0.bias", "features.0.weight"]


def test_without_a_network_the_error_says_what_to_fetch(monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("Temporary failure in name resolution\nand more")

    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(
        SnapshotError, match=r"vgg19: could not download weights from https://\S+/vgg19-\w+\.pth"
    ) as info:
        load_vgg(["relu4_1"], name="vgg19")
    assert "name resolution" in str(info.value)
    assert "give its path" in str(info.value)
    assert "\n" not in str(info.value)


def test_download_is_torchvisions(monkeypatch, state):
    asked = []

    def answer(url, **kwargs):
        asked.append((url.rsplit("/", 1)[1], kwargs["weights_only"], kwargs["check_hash"]))
        return state

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", answer)
    net = load_vgg(SHALLOW)
    assert asked == [("vgg16-397923af.pth", True, True)]
    assert torch.equal(net.features[2].bias, state["features.2.bias"])


def test_unknown_network_and_layer():
    with pytest.raises(InvalidValueError, match="no network 'vgg11'; choose from vgg16, vgg19"):
        load_vgg(SHALLOW, name="vgg11")
    with pytest.raises(InvalidValueError, match="no VGG layer 'relu1_3'; choose from conv1_1, relu1_1"):
        load_vgg(["relu1_1", "relu1_3"])
    with pytest.raises(InvalidValueError, match="no VGG layer"):
        VGG(PLAN, [])


def test_missing_file(tmp_path):
    with pytest.raises(SnapshotError, match="no such file; give a"):
        load_vgg(SHALLOW, weights=tmp_path / "none.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_file(tmp_path, suffix):
    path = tmp_path / f"vgg{suffix}"
    path.write_bytes(b"PK\x03\x04broken")
    with pytest.raises(SnapshotError, match=f"vgg{suffix}") as info:
        load_vgg(SHALLOW, weights=path)
    assert "\n" not in str(info.value)


def test_file_of_something_else(tmp_path):
    path = tmp_path / "vgg.pth"
    torch.save({"conv.weight": torch.zeros(1)}, path)
    with pytest.raises(SnapshotError, match=r"has no weights features\.0\.weight"):
        load_vgg(SHALLOW, weights=path)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(8, 3, 3, 3), r"is \(8, 3, 3, 3\) and should be \(64, 3, 3, 3\)"),
        (None, "NaN or infinity"),
    ],
)
def test_weights_that_do_not_fit(state, value, message):
    spoilt = state["features.0.weight"] * float("nan") if value is None else value
    with pytest.raises(SnapshotError, match=message):
        load_weights(VGG(PLANS["vgg16"], SHALLOW), state | {"features.0.weight": spoilt}, "vgg.pth")
