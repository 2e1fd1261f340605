"""Losses of stainers and style models: adversarial, contrastive, cycle, correlative, style."""
