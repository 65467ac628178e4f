"""Hides messages of libraries unless they are requested."""

import os

LIBRARIES = ("DIFFUSERS", "TRANSFORMERS", "HF_HUB")


def hide_library_messages() -> None:
    """Set the libraries' own verbosity variables to "error" where the user has not set them.

    Must be called before the libraries are imported. `DIFFUSERS_VERBOSITY=debug` (and so on) shows their messages
    again. Relevant problems are reported by this program's own warnings and errors.
    """
    for library in LIBRARIES:
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
