"""Training of the denoiser, the upscaler and stainers: one loop, one state."""
