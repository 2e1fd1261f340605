"""What a stain translator is trained with: adversarial, contrastive, cycle and spatially correlative losses."""
