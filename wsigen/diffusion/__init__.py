"""The mathematics of diffusion on tensors: no networks, no files."""
