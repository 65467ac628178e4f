"""Combines the gradient sources of a step: splitting, attention, recording, reduction and compilation, as
configured."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator

from families.family import ModelFamily
from families.parts.compiled_blocks import CompiledBlocks
from settings.sections.speed import SpeedSection
from trainer.distributed.gradient_reduction import SharedGradients
from trainer.distributed.processes import Processes
from trainer.execution.accumulation import Accumulation, GradientSource
from trainer.execution.attention import AttentionSteps
from trainer.execution.compiled_steps import CompiledSteps, compiles
from trainer.execution.cuda_graphs import RecordedPasses, RecordedSteps, records
from trainer.execution.gradient_checkpointing import GradientCheckpointing
from trainer.randomness import NamedGenerators
from trainer.trainables.trainable import Trainable


@dataclass
class Passes:
    """The gradient source of the loop, and those of its parts that other code reads."""

    source: GradientSource
    checkpointing: GradientCheckpointing
    recorded: RecordedSteps | None = None

    def remove(self) -> None:
        """Restore the models, and free the memory of recordings."""
        self.checkpointing.remove()
        if self.recorded is not None:
            self.recorded.forget()


def build_passes(
    speed: SpeedSection,
    family: ModelFamily,
    trainables: Sequence[Trainable],
    generators: NamedGenerators,
    accelerator: Accelerator,
    steps_left: Callable[[], int],
    forget_step: Callable[[], None],
    *,
    trains_base: bool,
    passes_differ: bool,
    controlnet: Any | None = None,
) -> Passes:
    """Build the gradient sources that `speed` and the device ask for.

    `steps_left`: returns the number of remaining steps, to decide whether compiling pays. `forget_step`: called when a
    step is repeated. `trains_base`: whether the base's own weights are trained. `passes_differ`: whether a repeated
    pass of a block would differ from the first one. `controlnet`: the one that is trained; the base's passes are then
    not recorded.
    """
    models = [family.denoiser, *([] if controlnet is None else [controlnet])]
    checkpointing = GradientCheckpointing(models, "never" if passes_differ else speed.gradient_checkpointing)
    starts_over = not speed.shard_base
    accumulation = Accumulation(generators, trainables, checkpointing, starts_over=starts_over, forget=forget_step)
    passes = Passes(accumulation, checkpointing)
    if speed.attention != "auto":
        passes.source = AttentionSteps(passes.source, family.denoiser, speed.attention)
    if controlnet is None and records(speed, accelerator.device, trains_base, passes_differ):
        recorded = [RecordedPasses(family.denoiser, lambda: not checkpointing.on)]
        recorded += [RecordedPasses(encoder) for encoder in family.text_encoders]
        passes.source = passes.recorded = RecordedSteps(passes.source, recorded, trainables)
    if not Processes(accelerator).is_single:
        passes.source = SharedGradients(passes.source, trainables, accelerator)
    if compiles(speed, accelerator.device):

        def compiled() -> CompiledBlocks:
            if passes.recorded is not None:
                passes.recorded.forget()  # they are recordings of the uncompiled blocks
            return CompiledBlocks(family.denoiser, cache=speed.compile_cache)

        passes.source = CompiledSteps(passes.source, compiled, speed.compile == "always", steps_left)
    return passes
