"""A folder in which the documentation's commands are run with small models and few steps."""

import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path

from tests.conftest import EXAMPLE, PROJECT
from tests.warm_process import run_warm

HUB_ID = re.compile(r"\bstabilityai/[\w.-]+|\brunwayml/[\w.-]+|\bBASE\b")
TINY = {
    "base_model": "mini-sdxl", "max_train_steps": "2", "num_inference_steps": "1", "num_validation_images": "1",
    "train_batch_size": "1", "captioner": "none", "evaluation_samples": "1", "samples_per_prompt": "1", "rank": "4",
    "resolution": "64", "checkpointing_steps": None, "validation_steps": None, "sample_steps": None,
}  # fmt: skip
"""Values that options in the documentation's commands are set to. None: the option is left out."""
ADDED = {
    "train.py": ("base_model", "max_train_steps", "num_inference_steps", "num_validation_images", "captioner"),
    "predict.py": ("num_inference_steps",),
    "preprocess": ("captioner", "resolution"),
    "evaluation.comparison": ("base_model", "num_inference_steps", "samples_per_prompt"),
}
"""Options that a command gets when the documentation does not give them."""
SUBCOMMANDS = {
    "train": "train.py", "predict": "predict.py", "prepare": "preprocess", "evaluate": "evaluation.comparison",
    "sweep": "service.sweep", "report": "job.report", "inspect": "artifact", "convert": "artifact",
    "merge": "artifact", "resize": "artifact", "extract": "artifact",
}  # fmt: skip
"""The programs of lora-trainer's subcommands."""
CONFIGURATIONS = {
    "--import_config": "lora_rank: 4\n",
    "--cascade_config": "lr: 1.0e-4\nrank: 4\nmodel_version: 1B\nwebdataset_path: photos.zip\n",
}
"""Contents of another trainer's file, by the option that reads it."""
SECONDS = 240
SHELL = re.compile(r"[|<>&;$*`]")


class Sandbox:
    """`folder` has links to the project's files, and the files that commands name: photos, and a LoRA that is trained
    in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for entry in PROJECT.iterdir():
            if not entry.name.startswith(".") and entry.name != "outputs":
                (folder / entry.name).symlink_to(entry)
        self.weights = folder / "trained" / "weights.safetensors"
        self.run(self.tiny(f"python train.py {EXAMPLE} --class_word figure --output trained"))
        for name in ("weights", "embeddings"):
            shutil.copy(self.weights.with_name(f"{name}.safetensors"), folder)

    def run(self, command: str) -> str:
        """Run a shell command in the folder and return its output. Fails with its errors."""
        command = re.sub(r"^lora-trainer ", "python -m service ", command)
        words = shlex.split(command)
        if words[0] in ("python", "python3") and not SHELL.search(command):
            done = run_warm(words[1:], self.folder, SECONDS)
        else:
            command = re.sub(r"^((?:\w+=\S+ )*)python3? ", lambda match: f"{match[1]}{sys.executable} ", command)
            shell = ["sh", "-ec", command]
            done = subprocess.run(shell, cwd=self.folder, capture_output=True, text=True, timeout=SECONDS)
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def run_python(self, text: str) -> None:
        """Run a block on the CPU, with the embedded base model in place of a large one."""
        text = HUB_ID.sub("assets/mini-sdxl", text).replace("torch.float16", "torch.float32").replace('.to("cuda")', "")
        script = self.folder / "block.py"
        script.write_text(text, encoding="utf-8")
        self.run("python block.py")

    def tiny(self, command: str) -> str:
        """Return the command with the embedded base model and few steps, and create the files that it reads."""
        words = shlex.split(HUB_ID.sub("mini-sdxl", command))
        program = program_of(command)
        words = _with_tiny_values(words)
        for name in ADDED.get(program, ()):
            if f"--{name}" not in words:
                words += [f"--{name}", str(TINY[name])]
        self._provide(words)
        return shlex.join(words)

    def _provide(self, words: list[str]) -> None:
        """Create the files that a command reads: archives of photos, LoRAs, configurations, folders of images. Remove
        its output folder."""
        for before, word in pairwise(words):
            path = self.folder / word
            if before == "--output" and path.is_dir():
                shutil.rmtree(path)
            elif before == "--output" or path.exists() or word.startswith("-") or " " in word:
                continue
            elif path.suffix in (".zip", ".tar"):
                shutil.copy(EXAMPLE, path)
            elif path.suffix == ".safetensors" and _is_read(word, words):
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(self.weights, path)
            elif before in CONFIGURATIONS:
                path.write_text(CONFIGURATIONS[before], encoding="utf-8")
                shutil.copy(EXAMPLE, self.folder / "photos.zip")
            elif word.endswith("/") or before == "--pictures":
                path.mkdir(parents=True)
                shutil.unpack_archive(EXAMPLE, path)


def program_of(command: str) -> str:
    """Return the program of a command: a module, a script, or another program."""
    words = [word for word in shlex.split(command) if not re.match(r"^\w+=", word)]
    if words[0] in ("python", "python3"):
        return words[2] if words[1] == "-m" else words[1]
    return SUBCOMMANDS.get(words[1], words[0]) if words[0] == "lora-trainer" else words[0]


def unknown_options(command: str) -> list[str]:
    """The options of the command that its program, or its subcommand, does not know."""
    words = [word for word in shlex.split(command) if not re.match(r"^\w+=", word)][1:]
    start = words[:2] if words[0] == "-m" else words[:1]
    rest = words[len(start) :]
    asked = (*start, *rest[:1]) if rest and re.fullmatch(r"[a-z]+", rest[0]) else tuple(start)
    missing = re.findall(r"(?<=\s)--[a-z]\w*", command)
    for page in ("--help", "--help_all"):  # commands with settings have the second one
        if missing:
            told = _help((*asked, page))
            missing = [option for option in missing if not re.search(rf"{option}\b", told)]
    return missing


@cache
def _help(words: tuple[str, ...]) -> str:
    return run_warm(words, PROJECT, SECONDS, {"COLUMNS": "500"}).stdout


def _with_tiny_values(words: list[str]) -> list[str]:
    kept: list[str] = []
    skip = False
    for index, word in enumerate(words):
        name = word.removeprefix("--")
        if skip:
            skip = False
        elif word.startswith("--") and name in TINY and index + 1 < len(words):
            skip, value = True, TINY[name]
            kept += [word, value] if value is not None else []
        else:
            kept.append(word)
    return kept


def _is_read(word: str, words: list[str]) -> bool:
    """Whether a LoRA file is an input. The second file of convert and resize is an output."""
    if program_of(shlex.join(words)) != "artifact":
        return True
    files = [each for each in words if each.endswith(".safetensors")]
    return not (("convert" in words or "resize" in words) and word == files[-1])
