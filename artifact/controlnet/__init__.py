"""The files of a ControlNet: one of its own, and the folder that diffusers reads."""
