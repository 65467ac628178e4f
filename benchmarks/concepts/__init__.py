"""Concepts for training, randomly generated from a seed."""
