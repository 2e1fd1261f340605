"""Instance normalisation of a slide that is translated in tiles: statistics as fields over the slide."""

from wsigen.stain.normalise.field import Axis, Field
from wsigen.stain.normalise.layers import NormLayers
from wsigen.stain.normalise.stats import LayerStats, WhiteningStats

__all__ = ["Axis", "Field", "LayerStats", "NormLayers", "WhiteningStats"]
