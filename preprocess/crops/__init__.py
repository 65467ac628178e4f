"""Crop windows, buckets, masks and augmented views of images."""
