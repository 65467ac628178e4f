"""Finds the base of a LoRA that was trained on this machine: its path is in the configuration in the run's folder."""

from dataclasses import replace
from pathlib import Path

from artifact.artifact import Artifact
from settings.public import public_name
from settings.record import ConfigError, read_settings_file

CONFIG_FILE = "config.yaml"
KEPT = ("base_model", "base_config", "vae")


def read_local(path: Path) -> Artifact:
    """Read the artifact at `path`. In the folder of its run, the base's local path is restored in its description.

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
    """Return the settings in config.yaml of the run that the file or checkpoint belongs to; empty without one."""
    folders = (path.parent, path.parent.parent.parent)
    file = next((folder / CONFIG_FILE for folder in folders if (folder / CONFIG_FILE).is_file()), None)
    try:
        return read_settings_file(file) if file else {}
    except ConfigError:  # a config.yaml of another program
        return {}
