"""Puts the layers of a file on a base model, and takes them off again."""
