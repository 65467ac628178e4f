"""Cog trainer and predictor, and the commands."""
