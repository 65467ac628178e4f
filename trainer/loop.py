"""The training loop: a generator of steps. Between steps, the caller logs, samples, saves or stops."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch
from accelerate import Accelerator
from torch import Tensor

from families.family import Conditioning, ModelFamily, PromptFeatures
from families.noise.noise_process import NoiseProcess
from trainer.data.batches import LatentBatch
from trainer.data.prompts import PromptSampler
from trainer.execution.accumulation import GradientSource
from trainer.execution.loss_scaling import LossScaling
from trainer.losses.term import OF_IMAGES, LossTerm, StepContext, learning_terms
from trainer.noise.dream import Dream
from trainer.randomness import NamedGenerators
from trainer.trainables.controlnet import Condition
from trainer.trainables.trainable import Trainable, TrainingDiverged

Losses = dict[str, Tensor]


@dataclass(frozen=True)
class Step:
    """The result of one optimizer step. `losses` and `gradient_norms` are by name; the norms are from before
    clipping.

    `loss_scale`: the factor of loss scaling in this step; None without it. `skipped`: whether a gradient overflowed, so
    that nothing was changed; such gradients have no norm.
    """

    number: int
    losses: dict[str, float]
    gradient_norms: dict[str, float]
    learning_rates: dict[str, float]
    loss_scale: float | None = None
    skipped: bool = False

    @property
    def loss(self) -> float:
        return sum(self.losses.values())


@dataclass
class Trainer:
    """The training loop. `batches` never ends. `dream`: corrects the noise by the model's own error.

    `noise_process` and `encode_prompts` are those of the family, possibly wrapped by the modifiers of `trainer.noise`.
    """

    family: ModelFamily
    noise_process: NoiseProcess
    encode_prompts: Callable[[Sequence[str]], PromptFeatures]
    batches: Iterator[LatentBatch]
    prompts: PromptSampler
    losses: Sequence[LossTerm]
    trainables: Sequence[Trainable]
    generators: NamedGenerators
    accelerator: Accelerator
    accumulation: GradientSource
    max_train_steps: int
    gradient_accumulation_steps: int
    dream: Dream | None = None
    loss_scaling: LossScaling | None = None
    condition: Condition | None = None
    """The ControlNet's residuals for the batch's conditioning images."""
    step: int = field(default=0, init=False)

    def steps(self) -> Iterator[Step]:
        """Train until max_train_steps. Raises TrainingDiverged before a non-finite update is applied."""
        while self.step < self.max_train_steps:
            self.generators.seed_global(self.step)
            rates = {name: rate for each in self.trainables for name, rate in each.learning_rates.items()}
            batches = list(islice(self.batches, self.gradient_accumulation_steps))
            mean_losses = self.accumulation.run(batches, self.backward)
            for term in learning_terms(self.losses):
                term.end_step()
            if self.loss_scaling is not None:
                self.loss_scaling.unscale()
            losses, norms = self._read(mean_losses, {each.name: each.clip() for each in self.trainables})
            scale = None if self.loss_scaling is None else self.loss_scaling.factor
            updated = self._update()
            self.step += 1
            yield Step(self.step, losses, norms, rates, scale, not updated)

    def _update(self) -> bool:
        """Returns whether the parameters were updated."""
        if self.loss_scaling is not None:
            return self.loss_scaling.update()
        for trainable in self.trainables:
            trainable.update()
        return True

    def forget_step(self) -> None:
        """The step is repeated: the states of its losses are reset."""
        for term in learning_terms(self.losses):
            term.forget_step()

    def end_at(self, step: int) -> None:
        """Make `step` the last one, and end the schedules there too."""
        self.max_train_steps = step
        for trainable in self.trainables:
            trainable.end_at(step)

    def backward(self, batch: LatentBatch, share: float) -> Losses:
        """Add the gradients of a batch that is `share` of the step's images. Returns the means over its images."""
        latents = self.family.latents(batch.moments, self._normal("latents", batch))
        draw = self.noise_process.draw(latents, self.generators["timestep"], self.generators["noise"])
        with self.accelerator.autocast():
            prompts = self.prompts.prompts(batch.captions, batch.concepts)
            features = self.encode_prompts(prompts)

            def predict(noised: Tensor, timesteps: Tensor) -> tuple[Tensor, Conditioning | None]:
                conditioning = self._conditioning(batch, noised, timesteps, features)
                return self.family.denoise(noised, timesteps, features, batch.sizes, conditioning), conditioning

            if self.dream is not None:
                before = self.generators.state_dict()
                draw = self.dream(self.noise_process, latents, draw, lambda *noised: predict(*noised)[0])
                self.generators.load_state_dict(before)  # the same dropout of conditions in the training pass
            noised = self.noise_process.corrupt(latents, draw)
            prediction, conditioning = predict(noised, draw.timesteps)
        context = StepContext(
            captions=batch.captions,
            sizes=batch.sizes,
            latents=latents,
            draw=draw,
            noised=noised,
            prediction=prediction,
            noise_process=self.noise_process,
            masks=batch.masks,
            weights=batch.weights,
            prompts=prompts,
            step=self.step,
            conditioning=conditioning,
            autocast=self.accelerator.autocast,
        )
        of_terms = {term.name: term(context) for term in self.losses}
        losses = {name: loss for name, loss in of_terms.items() if loss is not None}
        total = torch.stack(_counted(losses, batch.filling)).sum() * share
        self.accelerator.backward(total if self.loss_scaling is None else self.loss_scaling.scale(total))
        return {name: loss.detach() for name, loss in losses.items()}

    def _conditioning(
        self, batch: LatentBatch, noised: Tensor, timesteps: Tensor, features: PromptFeatures
    ) -> Conditioning | None:
        if self.condition is None:
            return batch.conditioning
        return self.condition(batch.controls, noised, timesteps, features, batch.sizes)

    def _normal(self, name: str, batch: LatentBatch) -> Tensor:
        noise = self.generators.normal(name, tuple(self.family.latent_shape(batch.moments.shape)))
        return noise.to(batch.moments.device, non_blocking=True)

    def _read(self, losses: Losses, norms: Losses) -> tuple[dict[str, float], dict[str, float]]:
        """Read losses and norms in the step's only transfer from the device. Raises TrainingDiverged if one is not
        finite; with loss scaling, norms that are not finite are omitted instead."""
        values = torch.stack([*losses.values(), *(norm.to(torch.float32) for norm in norms.values())]).tolist()
        read_losses = dict(zip(losses, values, strict=False))
        read_norms = dict(zip(norms, values[len(losses) :], strict=True))
        if self.loss_scaling is not None:
            read_norms = {name: norm for name, norm in read_norms.items() if math.isfinite(norm)}
        if not all(map(math.isfinite, [*read_losses.values(), *read_norms.values()])):
            raise TrainingDiverged(
                f"the training diverged at step {self.step + 1}, where values are not finite: losses {read_losses}, "
                f"gradient norms {read_norms}. Lower the learning rates."
            )
        return read_losses, read_norms


def _counted(losses: Losses, filling: float) -> list[Tensor]:
    """The losses as used for the gradient: images that fill up a batch have less weight. Reported means are
    unweighted."""
    if filling == 1.0:
        return list(losses.values())
    return [filling * loss if name in OF_IMAGES else loss for name, loss in losses.items()]
