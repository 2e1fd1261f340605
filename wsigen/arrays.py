"""Arrays that hold regions of an image: copy between them, and cache them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock

import numpy as np

from wsigen.geometry import Region


def part(pixels: np.ndarray, at: Region, region: Region) -> np.ndarray:
    """Return a view of a region of an array (height, width, …) that lies at ``at``, which contains it."""
    spot = region.shift(-at.y, -at.x)
    return pixels[spot.y : spot.y1, spot.x : spot.x1]


def paste(pixels: np.ndarray, at: Region, out: np.ndarray, region: Region) -> None:
    """Copy the overlap of two arrays (height, width, …).

    Args:
        pixels: to copy from.
        at: where they lie.
        out: to copy to.
        region: where that lies.
    """
    common = at.intersect(region)
    part(out, region, common)[...] = part(pixels, at, common)


class ArrayCache:
    """Least-recently-used cache of arrays, limited by their bytes; may be shared by threads.

    Args:
        capacity: bytes, at most.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity, self.nbytes = capacity, 0
        self._held: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self._lock = Lock()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._held

    def get(self, key: Hashable) -> np.ndarray | None:
        """Return an array, if it is cached."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
            return self._held.get(key)

    def put(self, key: Hashable, array: np.ndarray) -> None:
        """Cache an array, which must not be changed afterwards; not if it is larger than the cache."""
        with self._lock:
            if array.nbytes > self.capacity:
                return
            old = self._held.pop(key, None)
            self._held[key] = array
            self.nbytes += array.nbytes - (0 if old is None else old.nbytes)
            while self.nbytes > self.capacity:
                self.nbytes -= self._held.popitem(last=False)[1].nbytes

    def fetch(self, key: Hashable, make: Callable[[], np.ndarray]) -> np.ndarray:
        """Return an array, which is made and cached where it is not; two threads may both make it."""
        array = self.get(key)
        if array is None:
            array = make()
            self.put(key, array)
        return array

    def clear(self) -> None:
        """Drop all arrays."""
        with self._lock:
            self._held.clear()
            self.nbytes = 0
