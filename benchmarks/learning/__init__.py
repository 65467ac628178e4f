"""What trainings teach: ablations, and comparisons with other trainers."""
