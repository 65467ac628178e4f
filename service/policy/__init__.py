"""The operator's policy for callers of the Cog service: settings, models and limits."""
