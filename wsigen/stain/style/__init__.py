"""Stain transfer by example: AdaIN with the statistics of thumbnails, seamless tile by tile (URST)."""
