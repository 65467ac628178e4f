"""Runs a script or module of the project in a process of its own that has the large libraries already.

Such a process is forked from one that has imported them, which saves the seconds that every fresh Python needs for it.
It shares nothing with the test, so this is `python …` as users see it but for the time of its start.
"""

import os
import runpy
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

LIBRARIES = ("torch", "diffusers", "transformers", "peft", "accelerate", "job.run", "sampler.generation")
CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload([*LIBRARIES])


def run_warm(words: Sequence[str], folder: Path, seconds: float = 240) -> subprocess.CompletedProcess[str]:
    """`words`: what follows `python` in a command. Raises TimeoutError after `seconds`."""
    with TemporaryDirectory() as own:
        files = [Path(own) / name for name in ("stdout", "stderr")]
        process = CONTEXT.Process(target=_run, args=(list(words), str(folder), *map(str, files)))
        process.start()
        process.join(seconds)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(f"{' '.join(words)} took longer than {seconds} seconds")
        out, err = (file.read_text(encoding="utf-8") for file in files)
        return subprocess.CompletedProcess(list(words), process.exitcode, out, err)


def _run(words: list[str], folder: str, out: str, err: str) -> None:
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(folder)
    module = words[0] == "-m"
    sys.argv = words[1:] if module else words
    if module:
        sys.path.insert(0, folder)
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(words[0], run_name="__main__")
