"""Commands start quickly: each imports only what it needs, seen from a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("accelerate", "diffusers", "matplotlib", "scipy.stats", "timm", "torchvision", "transformers")
LIBRARIES = ("torch", "numpy", "cv2", "openslide", "jsonargparse", *HEAVY)
LIST = "\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"


def imported(code: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", code + LIST], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    ["import wsigen", "from wsigen.cli import main", "import wsigen.cli.main as m; m.main(['--version'])"],
)
def test_no_library_is_imported_before_a_command_is_chosen(code):
    assert not imported(code) & set(LIBRARIES)


@pytest.mark.parametrize(
    "command",
    ["sample", "translate", "train", "index", "evaluate", "import_stainer", "view", "study", "corpus"],
)
def test_help_needs_no_network(command):
    assert not imported(f"import wsigen.cli.{command}") & {"torch", *HEAVY}


def test_slides_in_files_are_viewed_without_torch():
    assert not imported("import wsigen.viewer.run") & {"torch", "starlette", "uvicorn", *HEAVY}


def test_a_study_is_served_without_torch():
    assert not imported("import wsigen.study.server") & {"torch", "starlette", "uvicorn", *HEAVY}


def test_translating_needs_torch_and_no_diffusers():
    found = imported("import wsigen.pipeline.translate")
    assert "torch" in found
    assert not found & set(HEAVY)


def test_a_stainer_is_loaded_without_diffusers():
    code = "from wsigen.stain.stainer import load_stainer; load_stainer('SYN')"
    assert not imported(code) & set(HEAVY)


def test_stainers_are_planned_and_prepared_without_the_compiler_of_torch():
    code = """
import torch
from wsigen.stain.engine.plan import activation_bytes
from wsigen.stain.engine.render import prepare
from wsigen.stain.stainer import load_stainer
net = load_stainer("SYN")
activation_bytes(net, torch.float32)
prepare(net, torch.device("cpu"), torch.float32)
"""
    assert not imported(code) & {"torch._dynamo", "sympy"}
