"""Loss terms that preserve the base model's prior."""
