"""The one file that leaves a training: LoRA, token embeddings, and everything needed to use them."""
