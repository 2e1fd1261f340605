"""From slides to training patches: where to cut, and the cutting."""
