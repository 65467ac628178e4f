"""Many trainings on one dataset: which settings, run one after another or on several machines, on one page."""
