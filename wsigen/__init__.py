"""Synthesise gigapixel H&E whole-slide images with a diffusion model trained on real slides."""

__version__ = "0.1.0"
