"""Instance normalisation of a slide that is translated in tiles: statistics as fields over the whole slide."""
