"""Where the gradients of a step come from, put together: split to fit into memory, recorded, shared between processes,
compiled; each only where the configuration and the device want it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from accelerate import Accelerator

from families.family import ModelFamily
from settings.sections.speed import SpeedSection
from trainer.distributed.gradient_reduction import SharedGradients
from trainer.distributed.processes import Processes
from trainer.execution.accumulation import Accumulation, GradientSource
from trainer.execution.attention import AttentionSteps
from trainer.execution.compiled_blocks import CompiledBlocks, CompiledSteps, compiles
from trainer.execution.cuda_graphs import RecordedPasses, RecordedSteps, records
from trainer.execution.gradient_checkpointing import GradientCheckpointing
from trainer.randomness import NamedGenerators
from trainer.trainables.trainable import Trainable


@dataclass
class Passes:
    """`source` is what the loop asks; the others are parts of it that are looked at from outside."""

    source: GradientSource
    checkpointing: GradientCheckpointing
    recorded: RecordedSteps | None = None

    def remove(self) -> None:
        """Leave the models as they were, and give the memory back."""
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
    *,
    trains_base: bool,
    passes_differ: bool,
) -> Passes:
    """`steps_left`: says whether compiling still pays. `trains_base`: its own weights are trained.
    `passes_differ`: a second pass of a block would not do what the first one did."""
    checkpointing = GradientCheckpointing(family.denoiser, "never" if passes_differ else speed.gradient_checkpointing)
    accumulation = Accumulation(generators, trainables, checkpointing, starts_over=not speed.shard_base)
    passes = Passes(accumulation, checkpointing)
    if speed.attention != "auto":
        passes.source = AttentionSteps(passes.source, family.denoiser, speed.attention)
    if records(speed, accelerator.device, trains_base, passes_differ):
        models = [RecordedPasses(family.denoiser, lambda: not checkpointing.on)]
        models += [RecordedPasses(encoder) for encoder in family.text_encoders]
        passes.source = passes.recorded = RecordedSteps(passes.source, models, trainables)
    if not Processes(accelerator).is_single:
        passes.source = SharedGradients(passes.source, trainables, accelerator)
    if compiles(speed, accelerator.device):

        def compiled() -> CompiledBlocks:
            if passes.recorded is not None:
                passes.recorded.forget()  # the blocks as they were
            return CompiledBlocks(family.denoiser, cache=speed.compile_cache)

        passes.source = CompiledSteps(passes.source, compiled, speed.compile == "always", steps_left)
    return passes
