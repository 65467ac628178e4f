"""Runs users' regular expressions with limits of time and memory, so that none can block a training."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from settings.record import ConfigError
from trainer.patterns import process

WALL_SECONDS = 60
"""Wall-clock limit in seconds, for a process that gets no CPU time. The CPU time is limited separately."""


def matching(pattern: str, texts: Sequence[str], *, whole: bool, setting: str) -> list[str]:
    """Return the texts that `pattern` matches, in their order. `whole`: match complete texts instead of any part.

    Raises ConfigError, naming `setting`, for an invalid expression, or one that takes more than a second.
    """
    request = json.dumps({"pattern": pattern, "texts": list(texts), "whole": whole})
    command = [sys.executable, "-P", str(Path(process.__file__))]
    costly = ConfigError(f"{setting}: {pattern!r} takes too long; avoid repetitions within repetitions")
    try:
        done = subprocess.run(command, input=request, capture_output=True, text=True, timeout=WALL_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise costly from None
    if done.returncode == process.WRONG_PATTERN:
        raise ConfigError(f"{setting}: {pattern!r} is not a valid regular expression: {done.stdout.strip()}")
    if done.returncode < 0 or done.returncode == process.TOO_COSTLY:
        raise costly
    if done.returncode != 0:
        raise RuntimeError(f"{setting}: the process that matches {pattern!r} failed:\n{done.stderr}")
    return [texts[index] for index in json.loads(done.stdout)]
