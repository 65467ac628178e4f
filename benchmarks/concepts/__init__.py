"""The concept lottery: randomly generated concepts to train, drawn from a seed."""
