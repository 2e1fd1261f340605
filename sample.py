"""Synthesise slides: ``python sample.py --size 2048 --stages 4``, the same as ``wsigen sample``."""

from wsigen.cli.main import sample

if __name__ == "__main__":
    sample()
