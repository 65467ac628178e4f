"""Selection of the best checkpoint: held-out images, scores and the rule."""
