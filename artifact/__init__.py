"""The LoRA file: reading, writing, converting, merging, and placing it on a base model."""
