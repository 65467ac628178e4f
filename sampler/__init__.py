"""Makes pictures: puts artifacts on a base, samples, and gives the base back as it was."""
