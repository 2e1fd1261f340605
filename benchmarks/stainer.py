"""How good a stainer is on held-out slides, beside the H&E as it is.

python benchmarks/stainer.py --stainer SYN --source "../shared/data/he/ice1_*.tif" \
  --target "../shared/data/ihc/bs25_*_SYN_*.tif" --table ../shared/data/SOURCES.csv

Patches of the size and µm/px that the stainer was trained on, normalised each by itself. Prints a Markdown
table for the model card; the last line is one JSON object: for "translated" and "source" the DAB optical
density (mean, p90, share of the area), its divergence from the target's, the correlation of hues with the
target and of haematoxylin with the source. With --sheet, draws source, translation and target.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any

from wsigen.config import CutConfig
from wsigen.config.domains import StainDataConfig
from wsigen.data.domains import load_or_build_domains
from wsigen.runtime import choose_device
from wsigen.stain.stainer import load_stainer
from wsigen.training.stain.validate import HeldOut, draw_held_out, save_sheet, stain_statistics, translate


def main() -> None:
    """Parse the command line, measure, print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--stainer", default="SYN")
    parser.add_argument("--source", nargs="+", required=True, help="H&E slides: folders, slides, patterns")
    parser.add_argument("--target", nargs="+", required=True, help="slides of the stain")
    parser.add_argument("--table", type=Path)
    parser.add_argument("--val-fraction", type=float, default=0.0, help="0: all slides are looked at")
    parser.add_argument("--images", type=int, default=48, help="patches of each")
    parser.add_argument("--min-tissue", type=float, default=0.5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--sheet", type=Path, help="PNG of source, translation, target")
    args = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    device = choose_device(args.device)
    net = load_stainer(args.stainer, device)
    kept = _patches(args, net.config["patch_size"], net.config["mpp_range"])
    translated = translate(net, kept.source, device)
    found = {"translated": stain_statistics(kept, translated), "source": stain_statistics(kept, kept.source)}
    if args.sheet:
        save_sheet(args.sheet, kept, translated, columns=min(6, args.images))
    sys.stdout.write(f"{markdown(found)}\n{json.dumps(found)}\n")


def _patches(args: argparse.Namespace, size: int, mpp_range: tuple[float, float]) -> HeldOut:
    data = StainDataConfig(
        source=args.source,
        target=args.target,
        table=args.table,
        patch_size=size,
        mpp_range=(mpp_range[0], mpp_range[1]),
        min_tissue=args.min_tissue,
        val_fraction=args.val_fraction,
    )
    config = CutConfig(data=data, val_images=args.images, preview_images=1)
    domains = load_or_build_domains(
        data.source, data.target, table=data.table, val_fraction=data.val_fraction
    )
    return draw_held_out(config, domains)


def markdown(found: dict[str, dict[str, Any]]) -> str:
    """Rows are images, columns measures."""
    lines = [
        "| | DAB mean | DAB p90 | DAB share | DAB divergence | hue correlation | H correlation |",
        "|---|---|---|---|---|---|---|",
    ]
    rows = {name: (of["dab"], of) for name, of in found.items()}
    target = next(iter(found.values()))["dab_target"]
    lines += [
        f"| {name} | {dab['mean']:.3f} | {dab['p90']:.3f} | {dab['positive']:.3f} | {of['dab_kl']:.3f} | "
        f"{of['hue_correlation']:.3f} | {of['haematoxylin_correlation']:.3f} |"
        for name, (dab, of) in rows.items()
    ]
    lines.append(f"| target | {target['mean']:.3f} | {target['p90']:.3f} | {target['positive']:.3f} | | | |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
