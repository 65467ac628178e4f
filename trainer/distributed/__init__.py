"""Training with several processes: launching, collectives, gradient reduction, sharding."""
