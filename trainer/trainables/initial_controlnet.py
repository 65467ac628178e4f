"""Initialises a ControlNet with an existing one."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from artifact.controlnet.files import NoControlNet, controlnet_description, controlnet_form, load_controlnet
from artifact.errors import ArtifactError
from families.controls.control import ControlForm, usual_blocks
from families.family import ModelFamily
from settings.record import ConfigError
from trainer.trainables.controlnet import ControlNetPart, require_controllable


@dataclass(frozen=True)
class InitialControlNet:
    """A file, or a folder of diffusers, with a ControlNet for this base model. `trained_on`: its setting `control`, if
    the file contains it."""

    path: Path
    trained_on: str | None

    def start(self, part: ControlNetPart, control: str, family: ModelFamily) -> Iterator[str]:
        """Load it into the part. Yields messages. `control`: the condition of this training."""
        load_controlnet(self.path, part.module, family)
        yield f"starting from the ControlNet {self.path.name}"
        if self.trained_on is not None and self.trained_on != control:
            yield (
                f"init_weights: {self.path.name} was trained with control: {self.trained_on}, but this run has "
                f"control: {control}; it needs some training before it follows the new condition"
            )


def read_initial_controlnet(path: Path, family: ModelFamily, form: ControlForm) -> InitialControlNet:
    """Check that `path` is a ControlNet for this base model, before data is prepared. It is read again when the
    training is built, and uses no memory until then. `form`: that of the trained one. Raises ConfigError."""
    maker = require_controllable(family)
    if not path.exists():
        raise ConfigError(f"init_weights: {path} does not exist")
    try:
        has = controlnet_form(path, maker)
        with torch.random.fork_rng(devices=[]):
            load_controlnet(path, maker.new_controlnet(has), family)
        description = controlnet_description(path)
    except NoControlNet as error:
        raise ConfigError(
            f"init_weights: {error}; with adapter: controlnet give the file or folder of a ControlNet, or leave it out"
        ) from error
    except ArtifactError as error:
        raise ConfigError(f"init_weights: {error}") from error
    if has.bottleneck != form.bottleneck and "simple" in (has.bottleneck, form.bottleneck):
        raise ConfigError(
            f"init_weights: {path.name} was trained with {'faces' if has.bottleneck == 'simple' else 'images'} as "
            "condition; set the same control"
        )
    if has.bottleneck != form.bottleneck:
        raise ConfigError(
            f"init_weights: {path.name} has another kind of network; set controlnet_bottleneck: {has.bottleneck}"
        )
    if maker.steered_blocks and has.channels != form.channels:  # otherwise all have the same form
        raise ConfigError(
            f"init_weights: {path.name} was trained with images of {has.channels} channels, but control has "
            f"{form.channels}; set the same control"
        )
    blocks = list(has.blocks or usual_blocks(maker.steered_blocks))
    if blocks != list(form.blocks):
        raise ConfigError(f"init_weights: {path.name} has other blocks; set controlnet_blocks: {blocks}")
    return InitialControlNet(path, None if description is None else description.config.get("control"))
