"""Slides on disk: reading them at any µm/px, finding tissue, writing pyramids."""
