"""Processing of prompts, from the user's text to prompt embeddings."""
