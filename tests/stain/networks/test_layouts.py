import re

import torch

from wsigen.stain.networks.generator import Generator
from wsigen.stain.networks.published import STEM, as_sequence

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
