"""The stages of a job, one per file, in the order of `job.run.STAGES`."""
