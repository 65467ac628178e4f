"""The stages of a job, a file each, in the order of `job.run.STAGES`."""
