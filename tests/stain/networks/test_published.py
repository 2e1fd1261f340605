import logging
import re
from itertools import pairwise

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.stain.networks.published import Sequence, published, sequence
from wsigen.errors import InvalidValueError, SnapshotError
from wsigen.stain.networks.generator import FAMILIES, Generator
from wsigen.stain.networks.published import STEM, as_sequence, import_checkpoint, recognise

URUST = [
    "block1.0",
    "downsampleblock2.conv",
    "downsampleblock2.downsample.conv",
    "downsampleblock3.conv",
    "downsampleblock3.downsample.conv",
    *(f"resnetblocks4.{i}.model.{j}" for i in range(9) for j in (1, 5)),
    "upsampleblock5.upsample.model.1",
    "upsampleblock5.conv",
    "upsampleblock6.upsample.model.1",
    "upsampleblock6.conv",
    "block7.1",
]
CUT = ["1", "4", "8", *(f"{i}.conv_block.{j}" for i in range(12, 21) for j in (1, 5)), "22", "26", "30"]
CUT_FILTERS = ["7", "11", "21", "25"]
CYCLEGAN = ["1", "4", "7", *(f"{i}.conv_block.{j}" for i in range(10, 19) for j in (1, 5)), "19", "22", "26"]
ANTIALIAS_UP = [*CYCLEGAN[:-3], "20", "24", "28"]
ANTIALIAS_UP_FILTERS = ["19", "23"]
ANTIALIAS_DOWN = [*CUT[:-3], "21", "24", "28"]
ANTIALIAS_DOWN_FILTERS = ["7", "11"]


def layers(family, **config):
    with torch.device("meta"):
        names = Generator(family, width=1, **config).state_dict()
    return {n.rpartition(".")[0] for n in names}


def test_names_are_the_published_ones():
    for family, numbers in (
        ("cut", CUT),
        ("cyclegan", CYCLEGAN),
        ("cut-antialias-up", ANTIALIAS_UP),
        ("cut-antialias-down", ANTIALIAS_DOWN),
    ):
        assert layers(family) == {f"model.{n}" for n in numbers}


def test_blurs_are_where_they_were_published():
    for family, numbers in (
        ("cut", CUT_FILTERS),
        ("cut-antialias-up", ANTIALIAS_UP_FILTERS),
        ("cut-antialias-down", ANTIALIAS_DOWN_FILTERS),
        ("cyclegan", []),
    ):
        net = Generator(family, width=1)
        assert [n for n, _ in net.named_buffers()] == [f"model.{n}.filt" for n in numbers]


def test_urust_becomes_a_sequence():
    state = {f"{name}.{kind}": torch.zeros(1) for name in URUST for kind in ("weight", "bias")}
    assert len(state) == 56
    weights, blur = as_sequence(state)
    assert {n.rpartition(".")[0] for n in weights} == layers("urust")
    assert len(weights) == 56
    assert not blur


def test_urust_norms_have_places_too():
    norms = ["block1.1", "downsampleblock2.instancenorm", "downsampleblock3.instancenorm"]
    norms += [f"resnetblocks4.{i}.model.{j}" for i in range(2) for j in (2, 6)]
    norms += ["upsampleblock5.instancenorm", "upsampleblock6.instancenorm"]
    state = {f"{name}.weight": torch.zeros(1) for name in ("block1.0", *norms)}
    weights, _ = as_sequence(state)
    net = Generator("urust", width=1, blocks=2, affine=True)
    wanted = {f"{n}.weight" for n, m in net.named_modules() if isinstance(m, torch.nn.InstanceNorm2d)}
    assert weights.keys() == wanted | {"model.1.weight"}


def test_filters_are_set_apart_and_the_rest_is_left():
    state = {"model.1.weight": torch.zeros(1), "model.7.filt": torch.ones(1), "head.filters": torch.ones(1)}
    weights, blur = as_sequence(state)
    assert list(weights) == ["model.1.weight", "head.filters"]
    assert list(blur) == ["model.7.filt"]


def test_first_layers():
    assert re.fullmatch(STEM, "model.1")
    assert re.fullmatch(STEM, "block1.0")
    assert not re.fullmatch(STEM, "model.10")


X = torch.rand(1, 3, 32, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
ODD_TAPS = torch.tensor([1.0, 4, 6, 4, 1])


def write(state, path):
    torch.save(state, path)
    return path


def same_picture(net, reference):
    torch.testing.assert_close(net(X), reference(X), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("width", "blocks"), [(4, 2), (6, 1)])
def test_every_family_gives_the_published_picture(family, width, blocks, tmp_path, caplog):
    reference = published(family, width, blocks)
    path = write(reference.state_dict(), tmp_path / "latest_net_G.pth")
    with caplog.at_level(logging.INFO):
        net = import_checkpoint(path)
    same_picture(net, reference)
    assert (net.config["family"], net.config["width"], net.config["blocks"]) == (family, width, blocks)
    millions = sum(p.numel() for p in net.parameters()) / 1e6
    assert f"recognised {family} generator" in caplog.text
    assert f"width {width}, {blocks} blocks, {millions:.2f} M parameters" in caplog.text
    assert "latest_net_G.pth" in net.config["source"]
    assert not net.training
    assert not any(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "urust"])
@pytest.mark.parametrize("options", [{"dropout": True}, {"affine": True}, {"bias": False}])
def test_options_are_seen_in_the_weights(family, options, tmp_path):
    reference = published(family, **options)
    norm = "instance" if options == {"bias": False} else None
    net = import_checkpoint(write(reference.state_dict(), tmp_path / "a.pt"), norm=norm)
    same_picture(net, reference)
    assert {o: net.config[o] for o in options} == options
    others = {"dropout": False, "affine": False, "bias": True}
    assert {o: net.config[o] for o in others} == others | options


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "urust"])
@pytest.mark.parametrize("dropout", [False, True])
def test_zero_padding_is_seen_in_the_numbers_of_layers(family, dropout, tmp_path):
    reference = published(family, zero_padding=True, dropout=dropout)
    net = import_checkpoint(write(reference.state_dict(), tmp_path / "a.pt"))
    same_picture(net, reference)
    assert (net.config["padding"], net.config["dropout"]) == ("zero", dropout)
    assert "zero padding" in net.config["source"]


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "urust"])
def test_neither_biases_nor_weights_of_norms_are_no_norms(family, tmp_path):
    """In the code of CUT and CycleGAN, --normG none leaves out biases too."""
    reference = published(family, bias=False, norms=False)
    path = write(reference.state_dict(), tmp_path / "a.pth")
    net = import_checkpoint(path)
    same_picture(net, reference)
    assert net.config["norm"] == "none"
    assert "no norms" in net.config["source"]
    other = published(family, bias=False)  # the same weights, and norms
    same_picture(import_checkpoint(path, norm="instance"), other)
    assert (other(X) - reference(X)).abs().max() > 0.01


def test_norms_that_are_said_to_be_none(tmp_path):
    reference = published("cut", norms=False)  # with biases, as no published code has it
    path = write(reference.state_dict(), tmp_path / "a.pth")
    same_picture(import_checkpoint(path, norm="none"), reference)
    assert import_checkpoint(path).config["norm"] == "instance"
    affine = write(published("cut", affine=True).state_dict(), tmp_path / "b.pth")
    with pytest.raises(SnapshotError, match="norm cannot be none; leave --norm out"):
        import_checkpoint(affine, norm="none")


def test_statistics_without_biases_are_those_of_instance_norms():
    state = published("cyclegan", bias=False).state_dict()
    assert recognise(state).config["norm"] == "none"
    assert recognise(state | {"model.2.running_mean": torch.ones(4)}).config["norm"] == "instance"


def test_all_options_at_once(tmp_path):
    reference = published("cut", affine=True, dropout=True, bias=False)
    net = import_checkpoint(write(reference.state_dict(), tmp_path / "a.pt"))
    same_picture(net, reference)
    found = recognise(reference.state_dict())
    assert "affine norms, dropout, no bias" in found.description


def test_affine_urust(tmp_path):
    reference = published("urust", affine=True)
    same_picture(import_checkpoint(write(reference.state_dict(), tmp_path / "a.pt")), reference)


@pytest.mark.parametrize(
    ("wrap", "taken"),
    [
        (lambda s: {f"module.{n}": v for n, v in s.items()}, "module"),
        (lambda s: {"state_dict": s, "epoch": 4}, "state_dict"),
        (lambda s: {"params": {f"module.{n}": v for n, v in s.items()}}, "params.module"),
        (lambda s: {"netG": s, "netD": {"model.0.weight": torch.zeros(4, 3, 4, 4)}}, "netG"),
        (lambda s: {"state_dict": {f"generator.{n}": v for n, v in s.items()}}, "state_dict.generator"),
    ],
)
@pytest.mark.parametrize("family", ["cut", "urust"])
def test_wrapped_weights(family, wrap, taken, tmp_path):
    reference = published(family)
    net = import_checkpoint(write(wrap(reference.state_dict()), tmp_path / "a.pth"))
    same_picture(net, reference)
    assert f"taken from {taken}" in net.config["source"]


def test_safetensors_sorted_by_name(tmp_path):
    reference = published("cyclegan", blocks=9)
    save_file(dict(sorted(reference.state_dict().items())), tmp_path / "a.safetensors")
    same_picture(import_checkpoint(tmp_path / "a.safetensors"), reference)


def test_statistics_of_old_files_are_dropped(tmp_path):
    reference = published("cyclegan")
    old = dict(reference.state_dict())
    for number in (2, 5):
        old |= {f"model.{number}.running_mean": torch.ones(4), f"model.{number}.running_var": torch.ones(4)}
        old[f"model.{number}.num_batches_tracked"] = torch.tensor(7)
    same_picture(import_checkpoint(write(old, tmp_path / "a.pth")), reference)


def test_half_precision_becomes_float32(tmp_path):
    reference = published("cut").half()
    net = import_checkpoint(write(reference.state_dict(), tmp_path / "a.pth"))
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    same_picture(net, reference.float())


def test_filters_may_be_missing(tmp_path):
    reference = published("cut")
    state = {n: v for n, v in reference.state_dict().items() if not n.endswith("filt")}
    same_picture(import_checkpoint(write(state, tmp_path / "a.pth")), reference)


def test_record(tmp_path):
    path = write(published("cut").state_dict(), tmp_path / "a.pth")
    net = import_checkpoint(path, marker="SYN", mpp=0.5, mpp_range=(0.4, 0.6), patch_size=256, source="x")
    kept = [net.config[k] for k in ("marker", "mpp", "mpp_range", "patch_size", "source")]
    assert kept == ["SYN", 0.5, (0.4, 0.6), 256, "x"]
    with pytest.raises(InvalidValueError, match="marker must be letters"):
        import_checkpoint(path, marker="../x")


def test_one_of_several_generators(tmp_path):
    a, b = published("cut", seed=1), published("cyclegan", seed=2)
    path = write({"netG_A": a.state_dict(), "netG_B": b.state_dict()}, tmp_path / "both.pth")
    with pytest.raises(SnapshotError, match="several generators: netG_A, netG_B; choose one with --key"):
        import_checkpoint(path)
    same_picture(import_checkpoint(path, "netG_B"), b)
    same_picture(import_checkpoint(path, "netG_A"), a)
    with pytest.raises(SnapshotError, match="holds no generator 'netG_C'"):
        import_checkpoint(path, "netG_C")


def refused(state, match):
    with pytest.raises(InvalidValueError, match=match) as error:
        recognise(state)
    assert "\n" not in str(error.value)


def unet():
    """A part of pix2pix's U-Net."""
    names = ["model.model.0.weight", "model.model.1.model.1.weight", "model.model.3.weight"]
    return {name: torch.zeros(4, 3, 4, 4) for name in names}


@pytest.mark.parametrize(
    "state", [unet(), nn.Conv2d(3, 64, 7).state_dict(), {"model.1.weight": torch.zeros(4, 3, 7, 7)}]
)
def test_unknown_file_lists_what_is_known_and_its_first_keys(state):
    keys = ", ".join(list(state)[:6])
    refused(
        state, rf"no generator of a known family; .* cut \(CUT, L-LSeSim\); cyclegan .* urust .* are {keys}$"
    )


def test_file_without_tensors(tmp_path):
    with pytest.raises(SnapshotError, match=r"a\.pth: no generator .* first keys are none"):
        import_checkpoint(write({"epoch": 1}, tmp_path / "a.pth"))


def test_missing_layer_is_not_filled_in():
    state = published("cut").state_dict()
    del state["model.15.bias"]
    refused(state, "no generator of a known family")


def test_one_tensor_of_another_shape_is_named():
    state = published("cut").state_dict()
    state["model.8.weight"] = torch.zeros(16, 8, 1, 1)
    refused(state, r"model\.8\.weight of a cut must have shape \(16, 8, 3, 3\), got \(16, 8, 1, 1\)")


def test_nan_is_named():
    state = published("cyclegan").state_dict()
    state["model.10.conv_block.1.bias"][2] = float("nan")
    refused(state, r"model\.10\.conv_block\.1\.bias holds NaN")


@pytest.mark.parametrize("channels", [(1, 3), (3, 1), (1, 1), (4, 3)])
def test_channels_other_than_rgb(channels):
    net = sequence("cut", 4, 1, nn.InstanceNorm2d, channels=channels)
    refused(net.state_dict(), f"turns {channels[0]} channels into {channels[1]}; only RGB to RGB")


def test_batch_normalisation():
    net = sequence("cyclegan", 4, 1, nn.BatchNorm2d, bias=False)
    refused(net.state_dict(), "has batch normalisation")


@pytest.mark.parametrize("number", [7, 14])
def test_other_filters(number):
    state = published("cut").state_dict()
    filt = torch.outer(ODD_TAPS, ODD_TAPS) / 256
    state[f"model.{number}.filt"] = filt.repeat(8, 1, 1, 1)
    refused(state, rf"model\.{number}\.filt must be \[1, 2, 1\] on the way down, \[1, 3, 3, 1\] up")


def test_filter_of_the_same_size_but_other_taps():
    state = published("cut").state_dict()
    state["model.7.filt"] = torch.full((8, 1, 3, 3), 1 / 9)
    refused(state, r"model\.7\.filt must be")


def test_discriminator_is_none_of_them():
    convs = [nn.Conv2d(a, b, 4) for a, b in pairwise((3, 4, 8, 1))]
    refused(Sequence(*convs).state_dict(), "no generator of a known family")
