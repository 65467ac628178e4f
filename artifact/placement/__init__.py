"""Places layers on a base model, and removes them."""
