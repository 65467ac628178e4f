"""Hides messages of libraries unless they are requested."""

import logging
import os

LIBRARIES = ("DIFFUSERS", "TRANSFORMERS", "HF_HUB")


def hide_library_messages() -> None:
    """Set the libraries' own verbosity variables to "error" where the user has not set them.

    Must be called before the libraries are imported. `DIFFUSERS_VERBOSITY=debug` (and so on) shows their messages
    again. Python's warnings go to the logger py.warnings, unless PYTHONWARNINGS is set. Relevant problems are reported
    by this program's own warnings and errors.
    """
    logging.captureWarnings("PYTHONWARNINGS" not in os.environ)
    for library in LIBRARIES:
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
