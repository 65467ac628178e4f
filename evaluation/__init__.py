"""Looks at what a LoRA draws: encoders, measures, the choice of checkpoint and scale, and the verdict."""
