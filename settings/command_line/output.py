"""Checks the output folder of a command before slow imports and before any work."""

import os
import shutil
from pathlib import Path

from settings.record import ConfigError


def require_writable(folder: Path) -> None:
    """Raises ConfigError for a folder that cannot be created, or that cannot be written to. Creates nothing."""
    try:
        nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    except OSError as error:  # a name that is too long, or a folder without permission
        raise ConfigError(f"output: {folder} cannot be created ({error.strerror}). Choose another folder.") from None
    if not nearest.is_dir():
        raise ConfigError(
            f"output: {folder} cannot be created, because {nearest} is not a folder. Choose another folder."
        )
    if not os.access(nearest, os.R_OK | os.W_OK | os.X_OK):
        raise ConfigError(f"output: {nearest} cannot be written to. Choose another folder.")


def require_new_folder(folder: Path) -> None:
    """As `require_writable`. Raises ConfigError also for a folder that is not empty."""
    require_writable(folder)
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"output: {folder} exists and is not empty. Choose another folder, or move its contents.")


def remove_traces(folder: Path, existed: bool) -> None:
    """Remove the files of a command that ended without a result, so that the same command works again. `existed`:
    whether the empty folder existed before the command."""
    if not existed:
        shutil.rmtree(folder, ignore_errors=True)
        return
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
