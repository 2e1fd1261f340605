"""How fast, and in how much memory, rows become a slide.

``python benchmarks/writer.py --size 16384`` streams H&E-like rows through the block journal and writes the
slide; the last line is one JSON object. ``--codecs`` measures every codec instead, on ``--slides`` if given.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import openslide

from wsigen.geometry import Size
from wsigen.slide.codec import DEFLATE, JPEG, ZSTD
from wsigen.slide.write import LAYOUTS, Layout, estimate_bytes, final_journal, write_slide


def texture(side: int = 512, seed: int = 0) -> np.ndarray:
    """A square that compresses as stained tissue does: pink stroma, purple nuclei, grain."""
    rng = np.random.default_rng(seed)

    def field(sigma: float) -> np.ndarray:
        noise = rng.standard_normal((side, side)).astype(np.float32)
        smooth = cv2.GaussianBlur(noise, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
        return (smooth / smooth.std())[..., None]

    fibres, nuclei, grain = field(6), field(3), field(0.8)
    pink, purple = np.array([225, 170, 205]), np.array([110, 70, 150])
    image = pink + 14 * fibres * np.array([0.7, 1.2, 0.8])
    image = np.where(nuclei > 1.3, purple + 10 * fibres, image) + 6 * grain
    return np.clip(image, 0, 255).astype(np.uint8)


def bands(size: int, rows: int) -> Iterator[np.ndarray]:
    """Rows of a slide of ``size``²: one texture, repeated, moved sideways from band to band."""
    tile = texture()
    side = len(tile)
    for y in range(0, size, rows):
        band = np.take(tile, range(y, y + min(rows, size - y)), axis=0, mode="wrap")
        moved = np.roll(band, 37 * (y // rows) % side, axis=1)
        yield np.tile(moved, (1, -(-size // side), 1))[:, :size]


def measure_writer(size: int, layout: Layout, folder: Path) -> dict[str, object]:
    """Journal, then slide; seconds of each, without making the rows."""
    journal_seconds = 0.0
    journal = final_journal(folder / "journal", Size(size, size), layout, "benchmark")
    for rows in bands(size, 128):
        start = time.perf_counter()
        journal.append(rows)
        journal_seconds += time.perf_counter() - start
    start = time.perf_counter()
    files = write_slide(journal, folder / "slide.ome.tif", mpp=0.5, layout=layout, provenance={"seed": 0})
    assembly_seconds = time.perf_counter() - start
    return {
        "size": size,
        "layout": layout,
        "megapixels_per_second": round(size**2 / 1e6 / (journal_seconds + assembly_seconds), 1),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "journal_seconds": round(journal_seconds, 2),
        "assembly_seconds": round(assembly_seconds, 2),
        "slide_bytes": files.slide.stat().st_size,
        "estimated_bytes": estimate_bytes(Size(size, size), journal.codec, journal.levels),
    }


def sample_tiles(slides: Path | None, count: int = 96) -> list[np.ndarray]:
    """256² tiles: from the middle of each slide of a folder, or of the texture."""
    if slides is None:
        image = texture(2048)
        return [image[y : y + 256, x : x + 256] for y in range(0, 2048, 256) for x in range(0, 2048, 256)]
    paths = sorted(path for path in slides.iterdir() if path.is_file())
    tiles = []
    for path in paths:
        with openslide.OpenSlide(path) as slide:
            width, height = slide.dimensions
            corner = (width // 2 - 512, height // 2 - 512)
            area = np.asarray(slide.read_region(corner, 0, (1024, 1024)).convert("RGB"))
        per_slide = max(1, count // len(paths))
        spots = [(y, x) for y in range(0, 1024, 256) for x in range(0, 1024, 256)]
        tiles += [np.ascontiguousarray(area[y : y + 256, x : x + 256]) for y, x in spots[:per_slide]]
    return tiles


def measure_codecs(tiles: list[np.ndarray]) -> dict[str, object]:
    """Speed of one thread, and size."""
    megapixels = sum(tile.shape[0] * tile.shape[1] for tile in tiles) / 1e6
    figures: dict[str, object] = {"tiles": len(tiles)}
    for codec in (JPEG, DEFLATE, ZSTD):
        start = time.perf_counter()
        coded = [codec.encode(tile) for tile in tiles]
        middle = time.perf_counter()
        for data in coded:
            codec.decode(data)
        end = time.perf_counter()
        figures[codec.name] = {
            "encode_megapixels_per_second": round(megapixels / (middle - start)),
            "decode_megapixels_per_second": round(megapixels / (end - middle)),
            "bytes_per_pixel": round(sum(map(len, coded)) / megapixels / 1e6, 3),
        }
    return figures


def main() -> None:
    """Parse the command line, measure, print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=16384, help="side of the slide in pixels")
    parser.add_argument("--layout", choices=LAYOUTS, default="linked-ome")
    parser.add_argument(
        "--out", type=Path, help="where to write and clean up again; default: the temporary folder"
    )
    parser.add_argument("--codecs", action="store_true", help="measure the codecs instead")
    parser.add_argument(
        "--slides", type=Path, help="folder of slides for --codecs; default: a made-up texture"
    )
    args = parser.parse_args()
    if args.codecs:
        figures = measure_codecs(sample_tiles(args.slides))
    else:
        with tempfile.TemporaryDirectory(dir=args.out) as folder:
            figures = measure_writer(args.size, args.layout, Path(folder))
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
