"""Sizes, points and half-open regions on integer pixel grids, always in (y, x) order."""

from __future__ import annotations

from dataclasses import dataclass

Colour = tuple[int, int, int]
"""Red, green and blue of 8 bits each."""


@dataclass(frozen=True)
class Size:
    """Height and width in pixels."""

    height: int
    width: int

    @classmethod
    def square(cls, side: int) -> Size:
        """Return the size of a square."""
        return cls(side, side)

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    @property
    def area(self) -> int:
        """Number of pixels."""
        return self.height * self.width

    @property
    def region(self) -> Region:
        """The region from the origin that covers this size."""
        return Region(0, 0, self.height, self.width)

    def times(self, k: int) -> Size:
        """Return the size with k pixels for each one."""
        return Size(k * self.height, k * self.width)

    def over(self, k: int) -> Size:
        """Return the size with one pixel for each k, rounded up."""
        return Size(-(-self.height // k), -(-self.width // k))

    def __str__(self) -> str:
        """Return the side of a square, such as 2048; else width and height, such as 4096x2048."""
        return str(self.width) if self.height == self.width else f"{self.width}x{self.height}"


@dataclass(frozen=True)
class Region:
    """Rows [y, y + height) and columns [x, x + width); may reach outside an image."""

    y: int
    x: int
    height: int
    width: int

    @property
    def y1(self) -> int:
        """First row below the region."""
        return self.y + self.height

    @property
    def x1(self) -> int:
        """First column right of the region."""
        return self.x + self.width

    @property
    def size(self) -> Size:
        """Height and width."""
        return Size(self.height, self.width)

    def shift(self, dy: int, dx: int) -> Region:
        """Return the region moved by (dy, dx)."""
        return Region(self.y + dy, self.x + dx, self.height, self.width)

    def pad(self, n: int) -> Region:
        """Return the region grown by ``n`` pixels on every side."""
        return Region(self.y - n, self.x - n, self.height + 2 * n, self.width + 2 * n)

    def intersect(self, other: Region) -> Region:
        """Return the common part; of height or width 0 if there is none."""
        y, x = max(self.y, other.y), max(self.x, other.x)
        y1, x1 = min(self.y1, other.y1), min(self.x1, other.x1)
        return Region(y, x, max(0, y1 - y), max(0, x1 - x))

    def __bool__(self) -> bool:
        return bool(self.height > 0 and self.width > 0)  # NumPy's integers would give NumPy's bool
