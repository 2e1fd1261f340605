"""Translating slides of any size: statistics ahead, rows in, rows of tiles out."""
