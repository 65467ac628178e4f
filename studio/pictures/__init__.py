"""Preparation of uploaded files, edits of the prepared dataset, and display of images."""
