"""Instance normalisation of a slide that is translated in tiles: statistics as fields over the slide."""

from wsigen.stain.normalise.field import Axis, Field, LayerStats
from wsigen.stain.normalise.layers import NormLayers

__all__ = ["Axis", "Field", "LayerStats", "NormLayers"]
