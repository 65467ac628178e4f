"""The output folder of a training. A folder that is not empty is never written to."""

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from settings.command_line.output import require_new_folder
from settings.record import Settings


class OutputFolder:
    """Paths of the files and folders of one training."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.weights = path / "weights.safetensors"
        self.model_folder = path / "model"
        self.model_file = path / "model.safetensors"
        self.controlnet = path / "controlnet"
        self.embeddings = path / "embeddings.safetensors"
        self.embeddings_apart = path / "embeddings"
        self.config = path / "config.yaml"
        self.metrics = path / "metrics.jsonl"
        self.validation = path / "validation.jsonl"
        self.report = path / "report.json"
        self.page = path / "report.html"
        self.workflow = path / "comfyui.json"
        self.dataset = path / "dataset"
        self.sources = path / "sources.json"
        self.class_images = path / "class_images"
        self.latents = path / "latents"
        self.prompts = path / "prompts"
        self.samples = path / "samples"
        self.samples_before = self.samples / "before"
        self.samples_by_step = self.samples / "steps"
        self.step_prompts = self.samples_by_step / "prompts.json"
        self.evaluation = path / "evaluation"
        self.checkpoints = path / "checkpoints"

    @classmethod
    def create(cls, path: Path) -> "OutputFolder":
        """Create the folder. Raises ConfigError when it exists and is not empty, or cannot be written to."""
        require_new_folder(path)
        path.mkdir(parents=True, exist_ok=True)
        return cls(path)

    def samples_of_step(self, step: int) -> Path:
        """Return the folder of the samples of `step`."""
        return self.samples_by_step / f"step_{step:06d}"

    def write_config(self, config: Settings) -> None:
        """Write config.yaml with all defaults filled in, which can be passed to `--config`."""
        text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        write_whole(self.config, text)


def default_output(data: str, root: Path = Path("outputs")) -> Path:
    """Return the first free name among `outputs/<name of the data>` and the same with -2, -3 … appended."""
    name = "" if data.startswith("data:") else re.split(r"[.:@{*[]", Path(urlsplit(data).path).name)[0]
    name = name or "training"
    candidates = (root / (name if number == 1 else f"{name}-{number}") for number in range(1, 100_000))
    return next(path for path in candidates if not path.exists())


def write_whole(path: Path, text: str) -> None:
    """Write a file that others read during the run, such that it is never incomplete. On failure the former file
    stays."""
    unfinished = path.with_name(f".{path.name}.part")
    try:
        unfinished.write_text(text, encoding="utf-8", newline="\n")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def remove_pictures(folder: Path) -> None:
    """Remove the samples of an earlier part of the run, which may be more numerous."""
    for picture in folder.glob("*.png"):
        picture.unlink()
