"""Generates captioned images of synthetic scenes and trains the embedded base model on them."""
