"""Codecs encode and decode single tiles.

| codec | in a TIFF | used for |
|---|---|---|
| `JPEG` | yes | finished slides: quality 85, YCbCr 4:2:0, which all tested readers show in true colours |
| `DEFLATE` | yes | lossless finished slides: horizontal differences (TIFF predictor 2), then deflate |
| `ZSTD` | no | intermediate stages and seeds: colour and 2-D differences, then zstd; exact, fast, smallest |

`bytes_per_pixel` is for plans: measured on H&E tissue without background at 0.25–1 µm/px, rounded up
(``benchmarks/writer.py --codecs --slides FOLDER``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

import cv2
import imagecodecs
import numpy as np


class TileCodec(Protocol):
    """Lossless or lossy coding of one uint8 RGB tile.

    Determinism: equal tiles give equal bytes; nothing depends on threads or on earlier tiles.
    """

    @property
    def name(self) -> str:
        """Name of codec and settings; tiles of codecs with equal names can be mixed."""
        ...

    @property
    def lossless(self) -> bool:
        """Whether ``decode(encode(tile))`` equals ``tile``."""
        ...

    @property
    def bytes_per_pixel(self) -> float:
        """Measured size on tissue, for plans only."""
        ...

    def encode(self, tile: np.ndarray) -> bytes:
        """Encode a uint8 (height, width, 3) tile."""
        ...

    def decode(self, data: bytes) -> np.ndarray:
        """Decode a tile: uint8 (height, width, 3)."""
        ...


@dataclass(frozen=True)
class JpegCodec:
    """Baseline JPEG, YCbCr 4:2:0, as a TIFF tile with its own tables.

    Args:
        quality: 1–100.
    """

    quality: int = 85
    lossless: bool = field(default=False, init=False)
    bytes_per_pixel: float = field(default=0.35, init=False)

    @property
    def name(self) -> str:
        """``jpeg85`` and the like."""
        return f"jpeg{self.quality}"

    def encode(self, tile: np.ndarray) -> bytes:
        """Encode a uint8 (height, width, 3) tile."""
        tile = np.ascontiguousarray(tile)
        return bytes(
            imagecodecs.jpeg8_encode(
                tile, level=self.quality, colorspace="RGB", outcolorspace="YCBCR", subsampling="420"
            )
        )

    def decode(self, data: bytes) -> np.ndarray:
        """Decode a tile as viewers show it: uint8 (height, width, 3)."""
        return imagecodecs.jpeg8_decode(data, colorspace="YCBCR", outcolorspace="RGB")


@dataclass(frozen=True)
class DeflateCodec:
    """TIFF's "adobe deflate" with predictor 2, for square tiles (their bytes do not hold their shape).

    Deflate rather than zstd, although zstd is 2.5 times faster and OpenSlide's own wheels open both: older
    builds of libtiff and several other readers support only deflate, and it is 4 % smaller.
    """

    name: str = field(default="deflate", init=False)
    lossless: bool = field(default=True, init=False)
    bytes_per_pixel: float = field(default=1.95, init=False)

    def encode(self, tile: np.ndarray) -> bytes:
        """Encode a square uint8 (n, n, 3) tile."""
        differences = imagecodecs.delta_encode(tile, axis=1)
        return bytes(imagecodecs.deflate_encode(differences.tobytes(), level=1))

    def decode(self, data: bytes) -> np.ndarray:
        """Decode a square tile: uint8 (n, n, 3)."""
        flat = np.frombuffer(imagecodecs.deflate_decode(data), np.uint8)
        side = math.isqrt(flat.size // 3)
        return imagecodecs.delta_decode(flat.reshape(side, side, 3), axis=1)


@dataclass(frozen=True)
class ZstdCodec:
    """Green, red − green and blue − green, each as 2-D differences modulo 256, then zstd level 1.

    A header of two little-endian uint16 holds height and width, so that tiles of any shape can be kept.
    """

    name: str = field(default="zstd", init=False)
    lossless: bool = field(default=True, init=False)
    bytes_per_pixel: float = field(default=1.35, init=False)

    def encode(self, tile: np.ndarray) -> bytes:
        """Encode a uint8 (height, width, 3) tile."""
        planes = np.empty((3, *tile.shape[:2]), np.uint8)
        planes[0] = tile[..., 1]
        np.subtract(tile[..., 0], tile[..., 1], out=planes[1])
        np.subtract(tile[..., 2], tile[..., 1], out=planes[2])
        planes = imagecodecs.delta_encode(imagecodecs.delta_encode(planes, axis=2), axis=1)
        header = np.array(tile.shape[:2], "<u2").tobytes()
        return header + bytes(imagecodecs.zstd_encode(planes.tobytes(), level=1))

    def decode(self, data: bytes) -> np.ndarray:
        """Decode a tile: uint8 (height, width, 3)."""
        height, width = (int(n) for n in np.frombuffer(data[:4], "<u2"))
        planes = np.frombuffer(imagecodecs.zstd_decode(data[4:]), np.uint8).reshape(3, height, width)
        # A cumulative sum modulo 256 undoes the vertical differences, faster than delta_decode along axis 1.
        planes = imagecodecs.delta_decode(np.cumsum(planes, axis=1, dtype=np.uint8), axis=2)
        return cv2.merge([planes[1] + planes[0], planes[0], planes[2] + planes[0]])


JPEG = JpegCodec()
DEFLATE = DeflateCodec()
ZSTD = ZstdCodec()
