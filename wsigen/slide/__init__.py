"""Slides on disk: read at any µm/px, find tissue, write pyramids."""
