"""Terms that hold what the base knows."""
