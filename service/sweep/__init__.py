"""Sweeps: many trainings on one dataset with different settings, locally or on a cluster, with a summary page."""
