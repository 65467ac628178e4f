"""Which checkpoint is the best: what it is judged by, and the rule."""
