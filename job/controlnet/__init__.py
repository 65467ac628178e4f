"""ControlNets in a job: samples with their conditions, verification, recipes."""
