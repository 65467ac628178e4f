"""What the predictor takes and what its pictures become."""
