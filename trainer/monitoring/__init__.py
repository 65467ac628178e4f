"""What is measured after every step, and what stops a run."""
