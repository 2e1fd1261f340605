"""Index slides, and cut training patches from them."""
