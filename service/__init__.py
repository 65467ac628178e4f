"""The entry points: the Cog trainer and predictor, and the commands."""
