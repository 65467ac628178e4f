"""Imports what a training needs. The warm worker (`service.processes.warm_worker`) does it once, before it forks.

Imports alone: they make no tensors, and so none of OpenMP's threads, which would not exist after a fork.
"""

import os

os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # else the question whether there is a GPU may start CUDA here

from service.quick_imports import quick_imports

with quick_imports():
    import job.report.page
    import job.resume
    import job.run
    import service.train_command

__all__ = ["job", "service"]
