"""The networks that translate stains: generators, discriminator, published checkpoints."""
