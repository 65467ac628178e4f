"""Rules across sections of the settings."""
