"""Pictures in and out of the sampler."""
