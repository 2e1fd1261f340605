"""Synthesise paired H&E and IHC whole-slide images of gigapixel size, with models learnt from real slides."""

# pyright: reportUnsupportedDunderAll=false
from importlib import import_module

__version__ = "0.1.0"
__all__ = [
    "FileSlide",
    "Pair",
    "Sampler",
    "Slide",
    "SyntheticSlide",
    "Translator",
    "__version__",
    "evaluate",
    "open_corpus",
    "open_slide",
    "view",
]


def __getattr__(name: str) -> object:
    # Imported on first use: torch takes seconds to import, and most commands do not need it.
    if name in __all__:
        return getattr(import_module("wsigen.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
