"""Verifies a written artifact: it is applied to the base model and compared with the trained model."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from artifact.artifact import Artifact
from families.family import ModelFamily, SizeConditioning
from families.parts.placeholder_tokens import expand_triggers
from families.precision.autocast import compute_dtype
from job.verification.sharded import on_shards, without_denoiser
from job.verification.table import Check, compare_layers, compare_tokens, table, untrained_layers
from sampler.sampler import Sampler
from trainer.distributed.on_every_rank import AdapterOnEveryRank

RELATIVE_TOLERANCE = 2e-2
"""Tolerance relative to the norm of the adapter's effect. fp16 keeps 11 bits of each weight."""
NOISE = {torch.float32: 0.0, torch.bfloat16: 2e-2, torch.float16: 5e-3}
"""Largest difference between two runs of one model, relative to the prediction's norm, by the precision of the base
model."""
ROUNDING = 1e-6
"""Rounding error relative to the prediction's norm."""
LEARNED = 1e-4
"""Smallest visible effect, relative to the prediction's norm. Four steps at usual rates have three times as much."""
FRACTIONS = (0.1, 0.5, 0.9)
"""Noise levels of the probe, from 0 (clean) to 1 (pure noise)."""


class VerificationFailed(RuntimeError):
    """The file does not reproduce the trained model. The message is a table of all checks. The file is kept."""


@dataclass(frozen=True)
class Probe:
    """A fixed input: noise at three timesteps with one prompt."""

    prompt: str
    noised: Tensor
    timesteps: Tensor
    sizes: tuple[SizeConditioning, ...]

    @classmethod
    @torch.no_grad()
    def make(cls, family: ModelFamily, prompt: str) -> "Probe":
        """Create a probe at the base's native resolution. `noised`: (3, C, h, w)."""
        side = family.native_resolution
        cached = family.encode_image(torch.zeros(1, 3, side, side, device=family.device))
        shape = (len(FRACTIONS), *family.latent_shape(cached.shape)[1:])
        noised = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(family.device)
        timesteps = family.noise_process.timesteps_at(torch.tensor(FRACTIONS), noised.shape)
        sizes = (SizeConditioning((side, side), (0, 0), (side, side)),) * len(FRACTIONS)
        return cls(prompt, noised, timesteps.to(family.device), sizes)

    @torch.no_grad()
    def predict(self, family: ModelFamily, triggers: Mapping[str, Sequence[str]]) -> Tensor:
        """Return the model's prediction (3, C, h, w), on the CPU."""
        prompts = family.encode_prompts([expand_triggers(self.prompt, triggers)] * len(FRACTIONS))
        return family.denoise(self.noised, self.timesteps, prompts, self.sizes).cpu()


@dataclass(frozen=True)
class Verification:
    """Result of a verification. `effect`: norm of the change of the prediction by the adapter (without one, by the
    tokens).

    `difference`: of file and model, relative to the effect. `learned`: whether the effect is large enough to be
    visible. `untrained`: number of the `layers` that no step has changed; `example`: one of them.
    """

    effect: float
    difference: float
    learned: bool = True
    layers: int = 0
    untrained: int = 0
    example: str | None = None


def verify(
    path: Path,
    family: ModelFamily,
    probe: Probe,
    base: Tensor,
    trained: Tensor,
    artifact: Artifact,
    tuning: AdapterOnEveryRank | None = None,
) -> Verification:
    """Apply `path` to the base model and compare it with the trained model.

    `base`, `trained`: the probe's predictions before and after training. `artifact`: the trained one, in memory.
    `tuning`: of the denoiser's weights, if they are sharded.

    Raises VerificationFailed if the base model was altered, a layer or token is missing or differs, a value is not
    finite, or the file's effect differs from the trained model's; and ArtifactError if the file cannot be read or
    applied.
    """
    noise = NOISE[compute_dtype(family.denoiser)] * base.norm().item()
    altered = (probe.predict(family, {}) - base).norm().item()
    file = Artifact.read(path)
    tokens_alone, loaded = _predictions(file, family, probe, tuning)
    effect = (trained - (tokens_alone if artifact.layers else base)).norm().item()
    difference = (loaded - trained).norm().item()
    layers = compare_layers(file.layers, artifact.layers)
    allowed = max(RELATIVE_TOLERANCE * effect, ROUNDING * base.norm().item()) + noise
    checks = [
        Check("the base model itself was altered, by", altered, noise),
        *layers.checks,
        *compare_tokens(file.tokens, artifact.tokens),
        Check("predicted values are not finite", float((~torch.isfinite(loaded)).sum()), 0),
        Check("it differs from the trained model by", difference, allowed),
    ]
    if any(check.failed for check in checks):
        raise VerificationFailed(f"{path} does not reproduce the trained model:\n{table(checks, layers.differing)}")
    untrained = untrained_layers(artifact.layers)
    return Verification(
        effect,
        difference / effect if effect > 0 else 0.0,
        effect >= LEARNED * base.norm().item(),
        len(artifact.layers),
        len(untrained),
        next(iter(untrained), None),
    )


def _predictions(
    file: Artifact, family: ModelFamily, probe: Probe, tuning: AdapterOnEveryRank | None
) -> tuple[Tensor, Tensor]:
    """Return the probe's predictions with only the file's tokens, and with the whole file."""
    sampler = Sampler(family)
    on_denoiser: AbstractContextManager[None] = nullcontext()
    if tuning is not None:
        file, layers = without_denoiser(file, family)
        on_denoiser = on_shards(tuning, layers)
    try:
        sampler.load(file, scale=0.0)
        tokens_alone = probe.predict(family, sampler.triggers)
        sampler.load(file)
        with on_denoiser:
            return tokens_alone, probe.predict(family, sampler.triggers)
    finally:
        sampler.unload()
