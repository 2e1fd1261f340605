from wsigen.api import FileSlide as FileSlide
from wsigen.api import Pair as Pair
from wsigen.api import Sampler as Sampler
from wsigen.api import Slide as Slide
from wsigen.api import SyntheticSlide as SyntheticSlide
from wsigen.api import Translator as Translator
from wsigen.api import evaluate as evaluate
from wsigen.api import open_corpus as open_corpus
from wsigen.api import open_slide as open_slide
from wsigen.api import view as view

__version__: str
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
