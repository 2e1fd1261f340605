"""Sampling presets as YAML: how a slide is sampled, by name."""
