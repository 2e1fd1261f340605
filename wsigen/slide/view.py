"""Which of a file's pixels are the slide, where a file holds several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeVar

from wsigen.errors import AmbiguousSlideError, InvalidValueError

# An image of at least this share of the largest one's pixels may be a slide of its own.
LARGE = 1 / 16
LISTED = 8  # images in a message, at most
NOT_SLIDES = ("label", "macro", "thumbnail", "overview")


@dataclass(frozen=True)
class View:
    """The user's choice among the images of one file; None where the file leaves none.

    Args:
        series: number of the image, as the error lists them that asks for it.
        z: number of the focus plane of a z-stack, from 0.
        icc: "srgb" to convert colours by the file's ICC profile; None to leave them as they are stored.
    """

    series: int | None = None
    z: int | None = None
    icc: Literal["srgb"] | None = None

    def facts(self) -> dict[str, int | str]:
        """Return what was chosen, for provenance; empty where nothing was."""
        return {name: value for name, value in vars(self).items() if value is not None}


def choose(option: str, value: str) -> str:
    """Return what to do about a file that leaves a choice: the ``option`` to set, and to what ``value``."""
    python = option.removeprefix("--").replace("-", "_")
    table = f" or a column {python} in the table of slides" if python in ("series", "z") else ""
    return f"choose one with {option} {value}, {python}= in Python{table}"


class StoredImage(Protocol):
    """One image of a file; as a text, its number, name and size."""

    @property
    def number(self) -> int:
        """That the user gives to choose it."""
        ...

    @property
    def name(self) -> str:
        """From the metadata; may be empty."""
        ...

    @property
    def area(self) -> int:
        """Number of pixels."""
        ...


Stored = TypeVar("Stored", bound=StoredImage)


def choose_image(
    path: Path,
    images: Sequence[Stored],
    view: View,
    is_level: Callable[[Stored, Stored], bool] = lambda small, large: False,
) -> Stored:
    """Return the image that is the slide: the largest one, or the one that the user chose.

    Args:
        path: the file, for messages.
        images: that it holds, at least one.
        view: the user's choice.
        is_level: whether an image is a smaller level of another one.

    Raises:
        AmbiguousSlideError: several are large, by their names all may be slides, and there is no choice.
        InvalidValueError: there is no image of this number.
    """
    if view.series is not None:
        for image in images:
            if image.number == view.series:
                return image
        raise InvalidValueError(
            f"--series must be the number of an image of {path} ({_listed(images)}), got {view.series}"
        )
    largest = max(images, key=lambda image: image.area)

    def is_rival(image: Stored) -> bool:
        if image.area < LARGE * largest.area or is_level(image, largest):
            return False
        return not image.name.lower().startswith(NOT_SLIDES)

    rivals = [image for image in images if image is not largest and is_rival(image)]
    if rivals:
        listed = _listed(sorted((largest, *rivals), key=lambda image: image.number))
        raise AmbiguousSlideError(path, f"holds several images ({listed}); {choose('--series', 'N')}")
    return largest


def _listed(images: Sequence[StoredImage]) -> str:
    return "; ".join(map(str, images[:LISTED])) + (" …" if len(images) > LISTED else "")


def no_plane(depth: int, view: View) -> str:
    """Return why a view shows no plane of an image with ``depth`` focus planes; empty if it shows one."""
    if view.z is None:
        return "" if depth == 1 else f"has {depth} focus planes; {choose('--z', f'0 to {depth - 1}')}"
    if 0 <= view.z < depth:
        return ""
    planes = "one focus plane" if depth == 1 else f"focus planes 0 to {depth - 1}"
    return f"has {planes}, not plane {view.z}; correct --z"


WHOLE = View()
"""No choice: the file holds one slide."""
