"""Commands that tests fork, in a module of their own, which a forked process imports quickly."""

import atexit
import hashlib
import json
import os
import sys
import time


def tell() -> int:
    found = {"variables": dict(os.environ), "session": os.getsid(0), "folder": os.getcwd(), "parent": os.getppid()}
    print(json.dumps(found))
    print("a complaint", file=sys.stderr, flush=True)
    atexit.register(print, "the end")
    return 3


def hang() -> int:
    print("started", flush=True)
    time.sleep(600)
    return 0


def crash() -> int:
    os.abort()


def checksum_of_kept_base() -> int:
    """Print a checksum of all weights of the base that this process keeps, and torch's number of threads. Then set all
    weights to zero, and abort."""
    import torch

    from families.loading.kept_base import KEPT

    family = KEPT.family
    assert family is not None
    parts = [family.denoiser, family.vae, *family.text_encoders]
    digest = hashlib.sha256()
    for part in parts:
        for name, value in part.state_dict().items():
            digest.update(name.encode() + value.contiguous().view(torch.uint8).numpy().tobytes())
    print(json.dumps({"checksum": digest.hexdigest(), "threads": torch.get_num_threads()}), flush=True)
    for part in parts:
        for value in part.state_dict().values():
            value.zero_()
    os.abort()
