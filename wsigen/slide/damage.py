"""Damaged tiles: the error that names one, and the list of those that are passed over."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from wsigen.errors import SlideError
from wsigen.geometry import Region, Size

FIX = "copy the file again or leave it out"


class DamagedError(SlideError):
    """Stored pixels of a slide that are damaged; others can still be read.

    Args:
        path: the slide.
        what: is wrong, in the words of the decoder.
        level: stored level, 0 is the finest.
        region: that cannot be read, in pixels of the level.
        fix: what to do.
    """

    def __init__(
        self,
        path: str | Path,
        what: str,
        level: int,
        region: Region,
        fix: str = FIX,
    ) -> None:
        where = f"x {region.x}, y {region.y}, {region.width} x {region.height} px"
        super().__init__(path, f"damaged at level {level}, {where} ({what}); {fix}")
        self.what, self.level, self.region, self.fix = what, level, region, fix

    def __reduce__(self) -> tuple[type[DamagedError], tuple[str, str, int, Region, str]]:  # pyright: ignore
        return type(self), (str(self.path), self.what, self.level, self.region, self.fix)


class Holes:
    """Damaged tiles of a slide that are read as background; a process knows those that it read."""

    def __init__(self) -> None:
        self._tiles: dict[tuple[int, Region], str] = {}

    def __contains__(self, tile: tuple[int, Region]) -> bool:
        return tile in self._tiles

    def __len__(self) -> int:
        return len(self._tiles)

    def add(self, level: int, tile: Region, what: str) -> None:
        """Remember a tile, given in pixels of a stored level, and what is wrong with it."""
        self._tiles[level, tile] = what

    def meets(self, level: int, region: Region) -> bool:
        """Return whether a region of a stored level is known to be damaged."""
        return any(at == level and bool(tile.intersect(region)) for at, tile in list(self._tiles))

    def describe(self, sizes: Mapping[int, Size]) -> str:
        """Return how much is damaged: "2 tiles of level 0 (8.33%), the first at x 512, y 256 (…)".

        Args:
            sizes: of stored levels; of others, nothing is said.
        """
        found = []
        for stored in sorted({level for level, _ in self._tiles} & sizes.keys()):
            tiles = {tile: what for (level, tile), what in self._tiles.items() if level == stored}
            share = sum(tile.size.area for tile in tiles) / sizes[stored].area
            at = min(tiles, key=lambda tile: (tile.y, tile.x))
            some = f"{len(tiles)} {'tile' if len(tiles) == 1 else 'tiles'} of level {stored} ({share:.2%})"
            found.append(f"{some}, the first at x {at.x}, y {at.y} ({tiles[at]})")
        return "; ".join(found)
