"""Synthesise gigapixel H&E whole-slide images with a diffusion model trained on real slides."""

from importlib import import_module

__version__ = "0.1.0"
__all__ = ["SyntheticSlide", "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]

_HOMES = {"SyntheticSlide": "wsigen.pipeline.synthetic"}


def __getattr__(name: str) -> object:
    # Looked up when it is first used: torch takes seconds to import, and most commands do without.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
