"""Fetches files that are named by URL, with limits. Knows nothing of what is in them."""
