"""Finds and opens base models."""
