"""Reads the command of a shell script: `accelerate launch train_….py --name value …`. Nothing is run."""

import re
import shlex
from pathlib import PurePath
from typing import Any

from settings.record import ConfigError

VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
ASSIGNMENT = re.compile(r"(?:export\s+)?(\w+)=(.*)", re.DOTALL)
MOST_CHARACTERS = 100_000
OTHER_SCRIPTS = (
    (re.compile(r".*(control_?net|train_control_).*"), "trains a ControlNet"),
    (re.compile(r".*textual_inversion.*"), "trains an embedding"),
    (re.compile(r".*(img2img|kontext|instruct_pix2pix|inpaint).*"), "trains a model that edits images"),
    (
        re.compile(
            r"train_text_to_image(_sdxl)?|train_dreambooth(_flux|_sd3)?|fine_tune|train_db|(sdxl|sd3|flux)_train"
        ),
        "trains all weights of the model",
    ),
)
"""Names of scripts of diffusers and kohya that do not train a LoRA, and what they train."""


def arguments_from(text: str, source: str) -> dict[str, Any]:
    """Return the arguments of the training command in `text`, by name: True for a switch, a list for several values.

    Variables that the text itself assigns are filled in. Raises ConfigError for a text without such a command or with
    several, and for other variables.
    """
    if len(text) > MOST_CHARACTERS:
        raise ConfigError(f"{source}: has {len(text):,} characters; the limit is {MOST_CHARACTERS:,}")
    variables: dict[str, str] = {}
    commands = []
    for line in re.sub(r"\\\r?\n", " ", text).splitlines():
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise ConfigError(f"{source}: cannot be read as a command ({error})") from None
        words = [_filled(word, variables, source) for word in words]
        if any(word.endswith(".py") for word in words):
            commands.append(words)
        else:
            variables |= dict(_assigned(words))
    if len(commands) != 1:
        raise ConfigError(
            f"{source}: contains {len(commands)} commands with a Python script (.py); give a file with one"
        )
    return _arguments(commands[0], source)


def _assigned(words: list[str]) -> list[tuple[str, str]]:
    matches = [ASSIGNMENT.fullmatch(word) for word in words if word != "export"]
    return [(match[1], match[2]) for match in matches if match]


def _filled(word: str, variables: dict[str, str], source: str) -> str:
    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name not in variables:
            raise ConfigError(f"{source}: ${name} is not assigned in the file; write its value instead")
        return variables[name]

    return VARIABLE.sub(value, word)


def _arguments(words: list[str], source: str) -> dict[str, Any]:
    """Return the arguments after the script's name. Of accelerate's options before it, only the precision is used.

    Raises ConfigError for a script that trains something other than a LoRA.
    """
    script = next(number for number, word in enumerate(words) if word.endswith(".py"))
    name = PurePath(words[script]).name
    for stem, kind in OTHER_SCRIPTS:
        if stem.fullmatch(name.removesuffix(".py")):
            raise ConfigError(
                f"{source}: {name} {kind}, and only commands that train a LoRA are translated; give its settings as "
                "options (docs/coming-from.md), with adapter: full or controlnet for such a training"
            )
    launch = _named(words[:script])
    precision = {name: value for name, value in launch.items() if name == "mixed_precision"}
    return precision | _named(words[script + 1 :])


def _named(words: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    name = None
    for word in words:
        if word.startswith("--"):
            name, sign, value = word[2:].partition("=")
            name = name.replace("-", "_")
            found[name] = value if sign else True
        elif name is not None:
            before = found[name]
            found[name] = word if before is True else [*(before if isinstance(before, list) else [before]), word]
    return found
