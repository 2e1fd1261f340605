"""Compare what two checkouts of wsigen write: slides by their bytes, reports by their values.

    python benchmarks/compare_versions.py BEFORE AFTER --work runs/versions

Runs the main commands of README and docs, at small sizes, once in each checkout with the Python that
runs this script, and prints one row a file. A refactoring should leave every row "same".
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import tifffile

SAMPLE = "sample --size 512 --stages 2 --device cpu --dtype float32 --overwrite"
TRANSLATE = (
    "wsigen translate slides/synthetic-4_HE.ome.tif --stainer SYN --device cpu --dtype float32 --overwrite"
)
COMMANDS = (
    f"{SAMPLE} --seed 3 --stain SYN --out slides",
    f"{SAMPLE} --seed 4 --out slides",
    f"{SAMPLE} --seed 5 --count 2 --preset fast --out real",
    f"{SAMPLE} --seed 3 --region 64,96,256,128 --out region",
    *(f"{TRANSLATE} --norm {norm} --out translated/{norm}" for norm in ("dn", "kin", "tin", "in")),
    "wsigen evaluate --generated slides/*_HE.ome.tif --pairs slides/*_IHC-SYN.ome.tif"
    " --real real/*_HE.ome.tif --mpp 0.5,1 --patch 64 --patches 64 --workers 1 --device cpu --out report"
    " --overwrite",
)
ENTRY_POINT = "import sys; from wsigen.cli import main; sys.argv[0] = {name!r}; sys.exit(main.{name}())"
TOLERANCE = 1e-6
"""Relative difference of two values of a report that count as the same: sums in another order."""


def main() -> None:
    """Run the commands in both checkouts and print one row a file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/versions"))
    given = parser.parse_args()
    folders = [(given.work / name).absolute() for name in ("before", "after")]
    for checkout, folder in zip((given.before, given.after), folders, strict=True):
        run_all(checkout.absolute(), folder)
    names = sorted({str(f.relative_to(folder)) for folder in folders for f in written(folder)})
    rows = {name: verdict(*(folder / name for folder in folders)) for name in names}
    for name, found in rows.items():
        print(f"{found:>30}  {name}")
    print(json.dumps({"files": len(rows), "same": sum(v.startswith("same") for v in rows.values())}))


def run_all(checkout: Path, folder: Path) -> None:
    """Run the commands with the package of a checkout, in a folder of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    for command in COMMANDS:
        name, *arguments = shlex.split(command)
        code = ENTRY_POINT.format(name="main" if name == "wsigen" else name)
        subprocess.run([sys.executable, "-c", code, *arguments], cwd=folder, env=environment, check=True)


def written(folder: Path) -> Iterator[Path]:
    """Slides, what lies beside them, and reports."""
    return (f for f in folder.rglob("*") if f.suffix in {".tif", ".json", ".jpg", ".png"})


def verdict(before: Path, after: Path) -> str:
    """How two files relate, in a few words."""
    if not (before.is_file() and after.is_file()):
        return "only before" if before.is_file() else "only after"
    if digest(before) == digest(after):
        return "same bytes"
    if before.suffix == ".tif":
        return "same tiles" if tiles(before) == tiles(after) else "DIFFERENT pixels"
    if before.suffix == ".json":
        found = list(differences(*(json.loads(f.read_text(encoding="utf-8")) for f in (before, after))))
        return "same values" if not found else f"DIFFERENT {found[0]} (+{len(found) - 1})"
    return "DIFFERENT"


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tiles(path: Path) -> list[str]:
    """Hashes of the compressed tiles of all pages, which hold no date and no version."""
    with tifffile.TiffFile(path) as file:
        pages = [page for series in file.series for level in series.levels for page in level.pages]
        found = []
        for page in pages:
            for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
                file.filehandle.seek(offset)
                found.append(hashlib.sha256(file.filehandle.read(count)).hexdigest())
        return found


def differences(before: object, after: object, place: str = "") -> Iterator[str]:
    """Places at which two JSON values differ, but for times, versions and wording."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted({*before, *after} - {"version", "versions", "created", "config", "warnings"}):
            yield from differences(before.get(key), after.get(key), f"{place}.{key}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for i, (a, b) in enumerate(zip(before, after, strict=True)):
            yield from differences(a, b, f"{place}[{i}]")
    elif isinstance(before, float) and isinstance(after, float):
        if not math.isclose(before, after, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
            yield f"{place}: {before:g} → {after:g}"
    elif before != after and not (isinstance(before, str) and isinstance(after, str)):
        yield f"{place}: {before} → {after}"


if __name__ == "__main__":
    main()
