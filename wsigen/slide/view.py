"""Which of a file's pixels are the slide, where a file holds several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


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
