"""From noise to a canvas of any size: patches, grid shifts, the wavefront and the cascade of stages."""
