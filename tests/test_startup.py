"""Commands start quickly: each imports only what it needs, seen from a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import NamedTuple

import pytest

from wsigen.cli.main import COMMANDS, module_name

HEAVY = ("accelerate", "diffusers", "matplotlib", "scipy.stats", "timm", "torchvision", "transformers")
LIBRARIES = ("torch", "numpy", "cv2", "openslide", "jsonargparse", *HEAVY)
REPORT = """
import json, sys, time
begun = time.process_time()
{first}
between = time.process_time()
{code}
print(json.dumps([sorted(sys.modules), between - begun, time.process_time() - between]))"""


class Started(NamedTuple):
    """What a process has imported, and the CPU seconds of what it ran first and then."""

    modules: set[str]
    first: float
    then: float


def started(code: str, first: str = "") -> Started:
    command = [sys.executable, "-c", REPORT.format(first=first, code=code)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    modules, *seconds = json.loads(done.stdout.splitlines()[-1])
    return Started(set(modules), *seconds)


@pytest.fixture(scope="module")
def translating() -> Started:
    """What translating imports, after torch."""
    return started("import wsigen.pipeline.translate", first="import torch")


@pytest.fixture(scope="module")
def slower(translating: Started) -> float:
    """How much slower this machine is, busy as it may be, than one that imports torch in a second."""
    return max(1.0, translating.first)


@pytest.mark.parametrize(
    "code",
    ["import wsigen", "from wsigen.cli import main", "import wsigen.cli.main as m; m.main(['--version'])"],
)
def test_no_library_is_imported_before_a_command_is_chosen(code):
    assert not started(code).modules & set(LIBRARIES)


def test_help_needs_no_network(slower):
    found = started("\n".join(f"import {module_name(command)}" for command in COMMANDS))
    assert not found.modules & {"torch", *HEAVY}
    assert found.then < 0.3 * slower


def test_slides_in_files_are_viewed_without_torch():
    assert not started("import wsigen.viewer.run").modules & {"torch", "starlette", "uvicorn", *HEAVY}


def test_a_study_is_served_without_torch():
    found = started("import wsigen.study.server")
    assert not found.modules & {"torch", "starlette", "uvicorn", *HEAVY}


def test_translating_needs_torch_and_no_diffusers(translating, slower):
    assert "torch" in translating.modules
    assert not translating.modules & set(HEAVY)
    assert translating.then < 0.5 * slower, "it starts within half a second of torch itself"


def test_sampling_is_planned_without_diffusers():
    assert not started("import wsigen.pipeline.sample").modules & set(HEAVY)


def test_stainers_are_loaded_planned_and_prepared_without_diffusers_and_the_compiler_of_torch():
    code = """
import torch
from wsigen.stain.engine.plan import activation_bytes
from wsigen.stain.engine.render import prepare
from wsigen.stain.stainer import load_stainer
net = load_stainer("SYN")
activation_bytes(net, torch.float32)
prepare(net, torch.device("cpu"), torch.float32)
"""
    assert not started(code).modules & {"torch._dynamo", "sympy", *HEAVY}
