"""The training loop: a generator of steps. Whoever iterates it logs, samples, saves and cancels."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch
from accelerate import Accelerator
from torch import Tensor

from families.family import ModelFamily
from trainer.batches import LatentBatch
from trainer.losses.term import LossTerm, StepContext
from trainer.prompts import PromptSampler
from trainer.randomness import NamedGenerators
from trainer.trainable import Trainable, TrainingDiverged

Losses = dict[str, Tensor]


@dataclass(frozen=True)
class Step:
    """What one optimizer step did. `losses` and `gradient_norms` by name, before clipping."""

    number: int
    losses: dict[str, float]
    gradient_norms: dict[str, float]
    learning_rates: dict[str, float]

    @property
    def loss(self) -> float:
        return sum(self.losses.values())


@dataclass
class Trainer:
    """All parts of a training. `batches` never ends."""

    family: ModelFamily
    batches: Iterator[LatentBatch]
    prompts: PromptSampler
    losses: Sequence[LossTerm]
    trainables: Sequence[Trainable]
    generators: NamedGenerators
    accelerator: Accelerator
    max_train_steps: int
    gradient_accumulation_steps: int
    max_grad_norm: float
    step: int = field(default=0, init=False)

    def steps(self) -> Iterator[Step]:
        """Train until max_train_steps. Raises TrainingDiverged before a non-finite update is applied."""
        while self.step < self.max_train_steps:
            rates = {trainable.name: trainable.learning_rate for trainable in self.trainables}
            micro_batches = islice(self.batches, self.gradient_accumulation_steps)
            losses = _mean([self.backward(batch) for batch in micro_batches])
            self._require_finite(losses)
            norms = {trainable.name: float(trainable.update(self.max_grad_norm)) for trainable in self.trainables}
            self.step += 1
            yield Step(self.step, losses, norms, rates)

    def backward(self, batch: LatentBatch) -> Losses:
        """Add the gradients of one micro-batch."""
        latents = self.family.latents(batch.moments, self._normal("latents", batch))
        draw = self.family.noise_process.draw(latents, self.generators["timestep"], self.generators["noise"])
        noised = self.family.noise_process.corrupt(latents, draw)
        with self.accelerator.autocast():
            prompts = self.family.encode_prompts(self.prompts.prompts(batch.captions, batch.concepts))
            prediction = self.family.denoise(noised, draw.timesteps, prompts, batch.sizes)
        context = StepContext(
            captions=batch.captions,
            sizes=batch.sizes,
            latents=latents,
            draw=draw,
            noised=noised,
            prediction=prediction,
            noise_process=self.family.noise_process,
            masks=batch.masks,
            weights=batch.weights,
        )
        losses = {term.name: term(context) for term in self.losses}
        self.accelerator.backward(torch.stack(list(losses.values())).sum() / self.gradient_accumulation_steps)
        return {name: loss.detach() for name, loss in losses.items()}

    def _normal(self, name: str, batch: LatentBatch) -> Tensor:
        count, channels, height, width = batch.moments.shape
        noise = torch.randn((count, channels // 2, height, width), generator=self.generators[name])
        return noise.to(batch.moments.device)

    def _require_finite(self, losses: Mapping[str, float]) -> None:
        if not all(math.isfinite(loss) for loss in losses.values()):
            raise TrainingDiverged(
                f"the loss at step {self.step + 1} is not finite: {losses}. Lower the learning rates."
            )


def _mean(losses: Sequence[Losses]) -> dict[str, float]:
    return {name: float(torch.stack([loss[name] for loss in losses]).mean()) for name in losses[0]}
