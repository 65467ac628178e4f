"""What callers of the Cog service may set, see and spend."""
