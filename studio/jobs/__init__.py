"""The queue of trainings on disk, and the worker process that runs them."""
