"""Looks at what a LoRA draws: encoders, measures on their embeddings, the choice of checkpoint and scale, the verdict."""
