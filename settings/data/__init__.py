"""Settings that name data."""
