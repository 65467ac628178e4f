"""Every setting of a training: records that are checked when they are built. Imports nothing of the project."""
