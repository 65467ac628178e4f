"""Layer names in weights files, by tool."""
