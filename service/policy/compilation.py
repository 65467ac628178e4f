"""The operator's variables for compiling in the predictor (docs/deployment.md)."""

import os
import shutil
from pathlib import Path

from artifact.placement.compilation import USUAL_RANK, Compilation
from service.policy.policy import switch, whole_number
from settings.record import ConfigError

COMPILE, CACHE, RANK = "COMPILE_DENOISER", "COMPILE_CACHE", "COMPILE_RANK"
DEFAULT_CACHE = "~/.cache/lora-trainer/compiled"
COMPILERS = ("g++", "clang++", "c++")


def compilation_from_environment() -> Compilation | None:
    """Return the predictor's compilation options; None if the operator has not enabled compilation.

    Raises ConfigError for an invalid variable, for one without effect, and if the C++ compiler that torch needs is
    missing.
    """
    if not switch(COMPILE):
        for name in (CACHE, RANK):
            if os.environ.get(name, "").strip():
                raise ConfigError(f"{name}: has no effect without {COMPILE}=1; set {COMPILE}=1, or unset {name}")
        return None
    if not any(shutil.which(compiler) for compiler in (os.environ.get("CXX") or COMPILERS[0], *COMPILERS)):
        raise ConfigError(f"{COMPILE}: needs a C++ compiler, which was not found. Install g++, or unset {COMPILE}")
    cache = Path(os.environ.get(CACHE, "").strip() or DEFAULT_CACHE).expanduser()
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{CACHE}: {cache} cannot be created ({error.strerror})") from error
    return Compilation(cache, whole_number(RANK, USUAL_RANK))
