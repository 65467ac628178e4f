"""The training data: batches, cached latents, prompts and cached prompt embeddings."""
