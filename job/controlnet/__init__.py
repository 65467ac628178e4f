"""What a job does for a ControlNet: samples with their conditions, verification, recipes."""
