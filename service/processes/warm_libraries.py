"""Imports the packages of a training. The warm worker (`service.processes.warm_worker`) does so once, before forks.

It only imports, and creates no tensors: OpenMP's threads, which tensors start, do not survive a fork.
"""

import os

os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # otherwise torch.cuda.is_available may start CUDA here

from service.quick_imports import quick_imports

with quick_imports():
    import job.report.page
    import job.resume
    import job.run
    import service.train_command

__all__ = ["job", "service"]
