"""Generates images with LoRAs on a base model, and restores the base model afterwards."""
