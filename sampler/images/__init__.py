"""Reading and writing of the sampler's images."""
