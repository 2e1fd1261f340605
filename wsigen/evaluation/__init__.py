"""Measures of generated slides beside real ones, and the report of them."""
