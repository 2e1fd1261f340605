"""The methods by name; what each can be told is in ``wsigen.config.stain``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wsigen.config.domains import StainRunConfig
from wsigen.training.stain.adain import Adain
from wsigen.training.stain.cut import Cut
from wsigen.training.stain.cyclegan import CycleGan
from wsigen.training.stain.lsesim import LSeSim
from wsigen.training.stain.method import Machine, Method

METHODS: dict[str, Callable[[Any, Machine], Method]] = {
    "cut": Cut,
    "fastcut": Cut,
    "cyclegan": CycleGan,
    "lsesim": LSeSim,
    "adain": Adain,
}


def make_method(config: StainRunConfig, machine: Machine) -> Method:
    """The method that a configuration is of, with untrained networks on the machine's device.

    Args:
        config: the run.
        machine: what it computes with.
    """
    return METHODS[getattr(config, "method")](config, machine)  # noqa: B009
