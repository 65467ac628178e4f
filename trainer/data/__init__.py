"""What training reads: batches, cached latents, prompts and cached prompt embeddings."""
