"""Training of stainers, from two sets of slides that are not registered."""
