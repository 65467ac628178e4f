"""Prompts, from the text that a user types to prompt embeddings."""
