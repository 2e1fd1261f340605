"""Training of the upscaler against a discriminator."""
