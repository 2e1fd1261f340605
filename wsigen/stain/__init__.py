"""From an H&E slide to its IHC slide: generators, normalisation independent of tiles, translation."""
