"""Figures of the ablations: curves, and sheets of image crops, as small pictures."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from wsigen.files import write_bytes

mpl.use("Agg")

LARGEST = 150_000
_COLOURS = (256, 128, 64, 32, 16)
_TYPEFACE = str(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")  # Pillow's own has no µ
_FONT, _LINE, _GAP = 10, 13, 6


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One diagram.

    Args:
        title: above it: what the ordinate is.
        x: what the abscissa is.
        lines: name to (abscissae, ordinates); a line of one point is shown as a marker.
        levels: name to ordinate, drawn across.
        log: "", "x", "y" or "xy".
    """

    title: str
    x: str
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    levels: Mapping[str, float] | None = None
    log: str = ""

    def draw(self, axes: Axes) -> None:
        """Draw it."""
        for name, (x, y) in self.lines.items():
            axes.plot(x, y, marker="o", markersize=4, linewidth=1.2, label=name)
        for i, (name, y) in enumerate((self.levels or {}).items()):
            axes.axhline(y, color="0.4", linewidth=1, linestyle=("--", ":", "-.")[i % 3], label=name)
        axes.set(title=self.title, xlabel=self.x)
        if "x" in self.log:
            ticks = sorted({float(x) for line in self.lines.values() for x in line[0]})
            axes.set_xscale("log")
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
        if "y" in self.log:
            axes.set_yscale("log")
        if len(self.lines) + len(self.levels or {}) > 1:
            axes.legend(fontsize=7)
        axes.grid(alpha=0.3)


def draw_panels(panels: Sequence[Panel], path: Path) -> None:
    """Diagrams side by side.

    Raises:
        OutputError: the folder cannot be written to.
    """
    figure = Figure(figsize=(4.4 * len(panels), 3.4), dpi=100, layout="constrained")
    with mpl.rc_context({"font.size": 8}):
        for axes, panel in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
            panel.draw(axes)
        stream = io.BytesIO()
        figure.savefig(stream, format="png")
    save_small(Image.open(stream).convert("RGB"), path)


def draw_sheet(rows: Mapping[str, Mapping[str, np.ndarray]], path: Path) -> None:
    """Crops in rows and columns, pixel by pixel, each with its name.

    Args:
        rows: name of the row to name of the column to uint8 (h, w, 3).
        path: the PNG.

    Raises:
        OutputError: the folder cannot be written to.
    """
    height, width = (max(c.shape[i] for crops in rows.values() for c in crops.values()) for i in (0, 1))
    columns, font = max(map(len, rows.values())), ImageFont.truetype(_TYPEFACE, _FONT)
    names = {
        (row, name): _wrapped(f"{row}: {name}" if row else name, width) for row in rows for name in rows[row]
    }
    margin = _LINE * max(text.count("\n") + 1 for text in names.values()) + 4
    sheet = Image.new("RGB", (columns * (width + _GAP), len(rows) * (height + margin)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (row, crops) in enumerate(rows.items()):
        for j, (name, crop) in enumerate(crops.items()):
            corner = (j * (width + _GAP), i * (height + margin))
            draw.multiline_text(corner, names[row, name], fill="black", font=font, spacing=1)
            sheet.paste(Image.fromarray(crop), (corner[0], corner[1] + margin))
    save_small(sheet, path)


def save_small(image: Image.Image, path: Path) -> None:
    """Write a PNG with as many colours as the limit on its size allows; if 16 are too many, at half the size.

    Raises:
        OutputError: the folder cannot be written to.
    """
    for colours in _COLOURS:
        stream = io.BytesIO()
        few = image.quantize(colours, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        few.save(stream, format="PNG", optimize=True)
        if stream.tell() <= LARGEST:
            write_bytes(path, stream.getvalue())
            return
    save_small(image.reduce(2), path)


def _wrapped(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, max(8, width * 2 // _FONT)))
