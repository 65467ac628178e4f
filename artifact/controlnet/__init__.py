"""The files of a ControlNet: a single file, and the folder for diffusers."""
