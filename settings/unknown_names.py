"""Suggests the setting that an unknown name may mean."""

import difflib
from collections.abc import Callable, Collection, Mapping

from settings.other_names import ELSEWHERE, NAMES

SURELY_MISSPELT = 0.75
"""Ratio of difflib above which a name is taken for another one: caption_dropout is far from lora_dropout."""


def _by_other_name(names: Mapping[str, tuple[str, ...]]) -> dict[str, list[str]]:
    ours: dict[str, list[str]] = {}
    for name, others in names.items():
        for other in others:
            ours.setdefault(other, []).append(name)
    return ours


_OURS = _by_other_name(NAMES)


def as_setting(name: str, value: str | None) -> str:
    """As it stands in a file of settings."""
    return name if value is None else f"{name}: {value}"


def as_option(name: str, value: str | None) -> str:
    """As it stands on a command line."""
    return f"--{name}" if value is None else f"--{name} {value}"


def advice(name: str, known: Collection[str], written: Callable[[str, str | None], str] = as_setting) -> str | None:
    """What to write for `name`, which is none of `known`: the setting's name here, or the nearest; None: nothing is
    near."""
    plain = name.lower().replace("-", "_")
    if plain in known:
        return f"did you mean {written(plain, None)}?"
    for ours in _OURS.get(plain, ()):
        setting, _, value = ours.partition(": ")
        if setting in known:
            return f"did you mean {written(setting, value or None)}?"
    if plain in ELSEWHERE:
        return ELSEWHERE[plain]
    near = difflib.get_close_matches(plain, known, n=1, cutoff=SURELY_MISSPELT)
    return f"did you mean {written(near[0], None)}?" if near else None
