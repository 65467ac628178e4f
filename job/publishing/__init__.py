"""Publishes the result of a job on the Hugging Face hub."""
