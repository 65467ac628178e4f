"""Conditioning images of a ControlNet: computed from the training images, or given as files."""
