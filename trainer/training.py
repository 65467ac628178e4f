"""A training: trained parts on the base, their optimizers, and the artifact at any step."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from artifact.artifact import Artifact
from artifact.controlnet.files import write_controlnet
from artifact.errors import ArtifactError
from artifact.metadata import ArtifactDescription, counted_through
from families.family import ModelFamily
from preprocess.dataset import PreparedDataset
from settings.public import public_name, public_settings
from settings.training import TrainingConfig
from trainer.data.batches import BatchStream
from trainer.execution.passes import Passes
from trainer.loop import Trainer
from trainer.monitoring.diagnostics import Observer
from trainer.tokens.concept_tokens import ConceptTokens
from trainer.trainables.controlnet import ControlNetPart, controlnet_of
from trainer.trainables.part import Parts
from trainer.trainables.tokens import tokens_of
from trainer.trainables.trainable import TrainingDiverged
from trainer.training_adapter import TrainingAdapter
from trainer.validation.best import Best
from trainer.validation.sample_prompts import validation_prompts
from trainer.validation.scorer import Scorer
from trainer.validation.settling import Settling
from trainer.validation.split import Split


@dataclass
class Training:
    """A training in progress."""

    config: TrainingConfig
    family: ModelFamily
    dataset: PreparedDataset
    parts: Parts
    trainer: Trainer
    batches: BatchStream
    passes: Passes
    base_fingerprint: str
    observer: Observer
    held_out: Split | None = None
    training_adapter: TrainingAdapter | None = None
    """The training adapter, which is applied in training steps and in validation."""
    scorer: Scorer | None = None
    best: Best = field(default_factory=Best)
    settling: Settling | None = None
    """The state of `stop_when_settled`; None for a fixed length."""
    seconds: float = 0.0
    """Seconds spent on steps so far."""
    notes: list[str] = field(default_factory=list)
    """Messages about the start of the training."""

    @property
    def tokens(self) -> ConceptTokens:
        """The placeholder tokens."""
        return tokens_of(self.parts)

    @property
    def triggers(self) -> dict[str, list[str]]:
        return self.tokens.triggers

    @property
    def steps_an_epoch(self) -> float:
        """Optimizer steps per pass over all images."""
        return self.batches.batches_an_epoch / self.trainer.gradient_accumulation_steps

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Use averaged weights inside this context, if there are any (`trainer.trainables.averages`)."""
        for trainable in self.trainer.trainables:
            trainable.averages.put_in()
        try:
            yield
        finally:
            for trainable in self.trainer.trainables:
                trainable.averages.take_out()

    @contextmanager
    def as_used(self) -> Iterator[None]:
        """Sample and predict inside this context like the result: without the training adapter."""
        with nullcontext() if self.training_adapter is None else self.training_adapter.off():
            yield

    def artifact(self) -> Artifact:
        """Return the artifact of the current weights."""
        description = ArtifactDescription(
            family=self.family.name,
            base_model=public_name(self.config.base_model),
            base_fingerprint=self.base_fingerprint,
            prediction_type=self.family.noise_process.prediction_type,
            zero_terminal_snr=self.family.noise_process.zero_terminal_snr,
            triggers=counted_through({word: len(tokens) for word, tokens in self.triggers.items()}),
            steps=self.trainer.step,
            config=public_settings(self.config),
            dataset_digest=self.dataset.digest(),
            sample_prompts=list(validation_prompts(self.config.validation, self.config.preparation)),
        )
        return Artifact(self.parts.layers(), self.parts.rows(), description)

    @property
    def controlnet(self) -> ControlNetPart | None:
        """The trained ControlNet; None if an adapter or tokens are trained."""
        return controlnet_of(self.parts)

    def write_shards(self, folder: Path) -> None:
        """Write the rows of sharded weights with their optimizer states, from all processes; nothing without
        sharding."""
        for trainable in self.trainer.trainables:
            trainable.write_shards(folder)

    def remove(self) -> None:
        """Remove all trained parts from the base."""
        self.passes.remove()
        if self.training_adapter is not None:
            self.training_adapter.remove()
        self.parts.remove()

    def write(self, path: Path) -> None:
        """Write the current artifact or ControlNet, with averaged weights if there are any.

        Raises TrainingDiverged, and writes nothing, if a value is not finite.
        """
        try:
            self._write(path)
        except ArtifactError as error:
            raise TrainingDiverged(
                f"the training diverged: after step {self.trainer.step}, {error}. Lower the learning rates."
            ) from error

    def _write(self, path: Path) -> None:
        precision, architecture = self.config.resolved_save_precision, self.family.architecture
        with self.averaged():
            artifact = self.artifact()
            if self.controlnet is not None:
                assert artifact.description is not None
                module = self.controlnet.module
                write_controlnet(module, path, artifact.description, precision, architecture=architecture)
                return
        version = self.family.base_model_version
        artifact.write(path, precision, architecture=architecture, base_model_version=version)
