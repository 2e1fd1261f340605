from wsigen.pipeline.synthetic import SyntheticSlide as SyntheticSlide

__version__: str
__all__ = ["SyntheticSlide", "__version__"]
