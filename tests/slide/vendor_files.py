"""Small slides in formats of scanners, which only OpenSlide reads."""

from __future__ import annotations

import struct
from collections.abc import Collection
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from tests.synthetic import reduce_by


def write_mirax(
    path: Path, image: np.ndarray, mpp: float, *, missing: Collection[tuple[int, int]] = (), tile: int = 64
) -> Path:
    """Write a MIRAX slide of two levels.

    Args:
        path: of the .mrxs file; its folder is made beside it.
        image: uint8 (height, width, 3), sides multiples of twice ``tile``.
        mpp: µm/px of level 0.
        missing: rows and columns of tiles that the scanner left out.
        tile: side of the tiles, px.
    """
    folder = path.with_suffix("")
    folder.mkdir()
    down, across = (side // tile for side in image.shape[:2])
    levels = {"HIER_0_NAME": "Slide zoom level", "HIER_0_COUNT": 2}
    levels |= {f"HIER_0_VAL_{i}_SECTION": f"LEVEL_{i}" for i in (0, 1)}
    sections = {
        "GENERAL": {
            "SLIDE_ID": "wsigen",
            "IMAGENUMBER_X": across,
            "IMAGENUMBER_Y": down,
            "OBJECTIVE_MAGNIFICATION": 20,
        },
        "HIERARCHICAL": {"HIER_COUNT": 1, "NONHIER_COUNT": 0, "INDEXFILE": "Index.dat", **levels},
        "DATAFILE": {"FILE_COUNT": 1, "FILE_0": "Data.dat"},
    }
    data, pages = bytearray(), []
    for level, factor in enumerate((1, 2)):
        sections[f"LEVEL_{level}"] = {
            **{f"OVERLAP_{axis}": 0 for axis in "XY"},
            **{f"MICROMETER_PER_PIXEL_{axis}": mpp * factor for axis in "XY"},
            "IMAGE_FORMAT": "JPEG",
            "IMAGE_FILL_COLOR_BGR": 0,
            "DIGITIZER_WIDTH": tile,
            "DIGITIZER_HEIGHT": tile,
            "IMAGE_CONCAT_FACTOR": level,
        }
        small, page = reduce_by(image, factor), b""
        for y, x in np.ndindex(down // factor, across // factor):
            if not {(y * factor + i, x * factor + j) for i, j in np.ndindex(factor, factor)} & set(missing):
                coded = _jpeg(small[y * tile : (y + 1) * tile, x * tile : (x + 1) * tile])
                page += struct.pack("<4i", (y * across + x) * factor, len(data), len(coded), 0)
                data += coded
        pages.append(struct.pack("<ii", len(page) // 16, 0) + page)
    # Head, two roots, a pointer for each level; and for each level 0, a pointer, and its page.
    head = b"01.02wsigen"
    root = len(head) + 8
    starts = [root + 8, root + 16 + len(pages[0])]
    index = head + struct.pack("<4i", root, root, *starts)
    for start, page in zip(starts, pages, strict=True):
        index += struct.pack("<ii", 0, start + 8) + page
    (folder / "Index.dat").write_bytes(index)
    (folder / "Data.dat").write_bytes(data)
    lines = [
        "\n".join([f"[{name}]", *(f"{k}={v}" for k, v in own.items())]) for name, own in sections.items()
    ]
    (folder / "Slidedat.ini").write_text("\n".join(lines))
    path.write_bytes(_jpeg(image[:8, :8]))
    return path


def write_ndpi(path: Path, image: np.ndarray, mpp: float) -> Path:
    """Write an NDPI slide of two levels, each one JPEG.

    Args:
        path: of the file.
        image: uint8 (height, width, 3), sides even.
        mpp: µm/px of level 0.
    """
    out, link = bytearray(b"II*\0" + bytes(8)), 4
    for factor in (1, 2):
        small = reduce_by(image, factor)
        height, width = small.shape[:2]
        pixels, resolution = len(out), round(1e7 / (mpp * factor))
        coded = _jpeg(small)
        out += coded
        place = len(out)
        out += struct.pack("<II", resolution, 1000)
        tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 7), (262, 3, 1, 6)]
        tags += [(273, 4, 1, pixels), (277, 3, 1, 3), (278, 4, 1, height), (279, 4, 1, len(coded))]
        tags += [(282, 5, 1, place), (283, 5, 1, place), (296, 3, 1, 3)]
        # NDPI's own: its flag, magnification (a float), focal plane.
        lens = int.from_bytes(struct.pack("<f", 20 / factor), "little")
        tags += [(65420, 4, 1, 1), (65421, 11, 1, lens), (65424, 9, 1, 0)]
        out[link : link + 8] = struct.pack("<Q", len(out))
        out += struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
        link = len(out)
        out += bytes(8 + 4 * len(tags))  # the next directory, and the upper halves of all values
    path.write_bytes(out)
    return path


def _jpeg(pixels: np.ndarray) -> bytes:
    coded = BytesIO()
    Image.fromarray(pixels).save(coded, "JPEG", quality=95, subsampling=0)
    return coded.getvalue()
