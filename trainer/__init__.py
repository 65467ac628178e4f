"""Trains adapters and token embeddings: data, losses, optimizers, checkpoints, distributed training."""
