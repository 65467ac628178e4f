"""Where the base of a LoRA lies that was trained on this machine: the LoRA names it, its run's folder has the path."""

from dataclasses import replace
from pathlib import Path

from artifact.artifact import Artifact
from settings.public import public_name
from settings.record import ConfigError, read_settings_file

CONFIG_FILE = "config.yaml"
KEPT = ("base_model", "base_config")


def read_local(path: Path) -> Artifact:
    """The artifact at `path`. If it lies in the folder of its run, its description has the base's path again.

    Raises ArtifactError.
    """
    artifact = Artifact.read(path)
    description = artifact.description
    if description is None:
        return artifact
    settings = _settings_of_run(path)
    base = settings.get("base_model")
    if not isinstance(base, str) or public_name(base) != description.base_model:
        return artifact
    config = {**description.config, **{name: settings.get(name) for name in KEPT}}
    return replace(artifact, description=replace(description, base_model=base, config=config))


def _settings_of_run(path: Path) -> dict[str, object]:
    """config.yaml beside the file, or of the run whose checkpoint it is; nothing where there is none."""
    folders = (path.parent, path.parent.parent.parent)
    file = next((folder / CONFIG_FILE for folder in folders if (folder / CONFIG_FILE).is_file()), None)
    try:
        return read_settings_file(file) if file else {}
    except ConfigError:  # it is some other program's file
        return {}
