"""What a stain translator is trained with: adversarial, contrastive, cycle, correlative losses."""
