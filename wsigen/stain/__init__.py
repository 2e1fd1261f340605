"""From an H&E slide to its IHC twin: generators, normalisation that does not depend on tiles, translation."""
