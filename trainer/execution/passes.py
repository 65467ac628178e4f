"""Where the gradients of a step come from, put together: split to fit into memory, recorded, shared between processes,
compiled; each only where the configuration and the device want it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from accelerate import Accelerator

from families.family import ModelFamily
from settings.training import TrainingConfig
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
    config: TrainingConfig,
    family: ModelFamily,
    trainables: Sequence[Trainable],
    generators: NamedGenerators,
    accelerator: Accelerator,
    steps_left: Callable[[], int],
) -> Passes:
    """`steps_left`: says whether compiling still pays."""
    checkpointing = GradientCheckpointing(
        family.denoiser, "never" if config.needs_first_activations else config.gradient_checkpointing
    )
    accumulation = Accumulation(generators, trainables, checkpointing, starts_over=not config.shard_base)
    passes = Passes(accumulation, checkpointing)
    if config.attention != "auto":
        passes.source = AttentionSteps(passes.source, family.denoiser, config.attention)
    if records(config, accelerator.device):
        models = [RecordedPasses(family.denoiser, lambda: not checkpointing.on)]
        models += [RecordedPasses(encoder) for encoder in family.text_encoders]
        passes.source = passes.recorded = RecordedSteps(passes.source, models, trainables)
    if not Processes(accelerator).alone:
        passes.source = SharedGradients(passes.source, trainables, accelerator)
    if compiles(config, accelerator.device):

        def compiled() -> CompiledBlocks:
            if passes.recorded is not None:
                passes.recorded.forget()  # the blocks as they were
            return CompiledBlocks(family.denoiser, cache=config.compile_cache)

        passes.source = CompiledSteps(passes.source, compiled, config.compile == "always", steps_left)
    return passes
