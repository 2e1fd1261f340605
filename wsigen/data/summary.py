"""The table that ``wsigen index`` shows: what the slides offer, octave by octave of µm/px."""

from __future__ import annotations

from collections.abc import Sequence

from wsigen.data.entry import SlideEntry
from wsigen.data.index import Failure, SlideIndex

OCTAVES = tuple(0.25 * 2**i for i in range(10))


def independent_patches(entry: SlideEntry, patch_size: int, mpp: float) -> int:
    """A slide's area of tissue counted in patches, at least 1; 0 if it cannot serve them.

    Args:
        entry: the slide.
        patch_size: side, px.
        mpp: µm/px.
    """
    if not entry.serves(patch_size, mpp):
        return 0
    return max(1, round(entry.tissue_um2 / (patch_size * mpp) ** 2))


def usable_range(entry: SlideEntry, patch_size: int) -> str:
    """The µm/px at which a slide serves patches: "0.25-2", "0.25-" (glass around: no end) or "none"."""
    if not entry.serves(patch_size, entry.finest):
        return "none"
    if entry.serves(patch_size, 1e6):
        return f"{entry.finest:.3g}-"
    return f"{entry.finest:.3g}-{min(entry.height, entry.width) * entry.mpp / patch_size:.3g}"


def summary(index: SlideIndex, failures: Sequence[Failure] = (), patch_size: int = 256) -> str:
    """A table for people: a line per slide, totals per split and octave, and what was left out and why.

    Args:
        index: the slides.
        failures: what was left out.
        patch_size: side of the patches that are counted, px.
    """
    columns = [(f"{m:g}", 7) for m in OCTAVES]
    name = min(44, max(len(e.slide) for e in index.entries))
    head = f"{'slide':<{name}} split  µm/px  height × width   tissue mm²  {'usable at':>10}  " + _cells(
        columns
    )
    lines = [f"Independent {patch_size} px patches of tissue by µm/px (read at that µm/px):", head]
    lines += [_line(entry, name, patch_size) for entry in index.entries]
    for split in ("train", "val", "test"):
        entries = index.split(split).entries
        if entries:
            area = sum(e.tissue_um2 for e in entries) / 1e6
            label = f"{len(entries)} slides, {len({e.group for e in entries})} groups"
            counts = [sum(independent_patches(e, patch_size, m) for e in entries) for m in OCTAVES]
            lines.append(
                f"{label:<{name}} {split:<5} {'':>6} {'':>15} {area:>12.1f}  {'':>10}  " + _numbers(counts)
            )
    if failures:
        lines.append(f"Left out, {len(failures)}:")
        lines += [f"  {f.slide}: {f.reason}" for f in failures]
    return "\n".join(lines)


def _line(entry: SlideEntry, name: int, patch_size: int) -> str:
    slide = entry.slide if len(entry.slide) <= name else "…" + entry.slide[-(name - 1) :]
    size = f"{entry.height} × {entry.width}"
    counts = [independent_patches(entry, patch_size, m) for m in OCTAVES]
    return (
        f"{slide:<{name}} {entry.split:<5} {entry.mpp:>6.3g} {size:>15} {entry.tissue_um2 / 1e6:>12.2f}  "
        f"{usable_range(entry, patch_size):>10}  " + _numbers(counts)
    )


def _numbers(counts: Sequence[int]) -> str:
    return _cells([(str(c) if c else "·", 7) for c in counts])


def _cells(cells: Sequence[tuple[str, int]]) -> str:
    return "".join(f"{text:>{width}}" for text, width in cells)
