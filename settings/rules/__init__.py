"""Rules that join sections of the settings."""
