"""Time and memory of data preparation."""
