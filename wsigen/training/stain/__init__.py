"""Training of stain translators, from two sets of slides that are not registered."""
