"""Time and memory of steps, jobs and predictions."""
