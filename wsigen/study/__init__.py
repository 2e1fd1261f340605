"""Blinded reader studies: made from slides, served to readers, and reported."""
