"""Where the gradients of a step come from, put together: split to fit into memory, recorded, shared between processes,
compiled; each only where the configuration and the device want it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from accelerate import Accelerator

from families.family import ModelFamily
from trainer.accumulation import Accumulation, GradientSource
from trainer.attention import AttentionSteps
from trainer.compiled_blocks import CompiledBlocks, CompiledSteps, compiles
from trainer.config import TrainingConfig
from trainer.gradient_checkpointing import GradientCheckpointing
from trainer.processes import Processes
from trainer.randomness import NamedGenerators
from trainer.recorded_passes import RecordedPasses, RecordedSteps, records
from trainer.shared_gradients import SharedGradients
from trainer.trainable import Trainable


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
