"""Commands that tests fork. A module of their own, which a forked process imports in no time."""

import atexit
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
