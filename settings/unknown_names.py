"""Suggests the setting that an unknown name may mean."""

import difflib
from collections.abc import Callable, Collection, Mapping

from settings.other_names import ELSEWHERE, NAMES

SURELY_MISSPELT = 0.75
"""Cutoff of difflib's ratio for a misspelt name. caption_dropout, for example, is far from lora_dropout."""


def _by_other_name(names: Mapping[str, tuple[str, ...]]) -> dict[str, list[str]]:
    ours: dict[str, list[str]] = {}
    for name, others in names.items():
        for other in others:
            ours.setdefault(other, []).append(name)
    return ours


_OURS = _by_other_name(NAMES)


def as_setting(name: str, value: str | None) -> str:
    """Format a setting as in a file."""
    return name if value is None else f"{name}: {value}"


def as_option(name: str, value: str | None) -> str:
    """Format a setting as on a command line."""
    return f"--{name}" if value is None else f"--{name} {value}"


def advice(name: str, known: Collection[str], written: Callable[[str, str | None], str] = as_setting) -> str | None:
    """Return advice on the unknown `name`: the equivalent setting, or the nearest name in `known`; None without one."""
    plain = name.lower().replace("-", "_")
    if plain in known:
        return f"did you mean {written(plain, None)}?"
    for ours in _OURS.get(plain, ()):
        setting, _, value = ours.partition(": ")
        if setting in known:
            return f"did you mean {written(setting, value or None)}?"
    if plain in ELSEWHERE:
        return ELSEWHERE[plain]
    if plain in NAMES:  # of another command: a similar name would have another meaning
        return "it is not used here; leave it out"
    near = difflib.get_close_matches(plain, known, n=1, cutoff=SURELY_MISSPELT)
    return f"did you mean {written(near[0], None)}?" if near else None
