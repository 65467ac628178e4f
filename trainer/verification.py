"""Before a job may succeed, its file is read back onto the bare base and compared with the model that was trained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from artifact.artifact import Artifact
from families.family import ModelFamily, SizeConditioning
from families.placeholder_tokens import expand_triggers
from sampler.sampler import Sampler

RELATIVE_TOLERANCE = 2e-2
"""Of the norm of the LoRA's effect. fp16 keeps 11 bits of each weight."""
NOISE = {torch.float32: 0.0, torch.bfloat16: 2e-2, torch.float16: 5e-3}
"""How far two runs of one model may lie apart, relative to the prediction's norm, by the base's precision."""
FRACTIONS = (0.1, 0.5, 0.9)
"""How far towards noise the probe lies."""


class VerificationFailed(RuntimeError):
    """The file does not do what the training did. It stays in the output folder."""


@dataclass(frozen=True)
class Probe:
    """A fixed input: noise at three timesteps under one prompt."""

    prompt: str
    noised: Tensor
    timesteps: Tensor
    sizes: tuple[SizeConditioning, ...]

    @classmethod
    @torch.no_grad()
    def make(cls, family: ModelFamily, prompt: str) -> "Probe":
        """A probe at the base's own resolution. `noised`: (3, C, h, w)."""
        side = family.native_resolution
        moments = family.encode_image(torch.zeros(1, 3, side, side, device=family.device))
        shape = (len(FRACTIONS), moments.shape[1] // 2, *moments.shape[2:])
        noised = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(family.device)
        timesteps = family.noise_process.timesteps_at(torch.tensor(FRACTIONS))
        sizes = (SizeConditioning((side, side), (0, 0), (side, side)),) * len(FRACTIONS)
        return cls(prompt, noised, timesteps.to(family.device), sizes)

    @torch.no_grad()
    def predict(self, family: ModelFamily, triggers: Mapping[str, Sequence[str]]) -> Tensor:
        """The model's prediction (3, C, h, w), on the CPU."""
        prompts = family.encode_prompts([expand_triggers(self.prompt, triggers)] * len(FRACTIONS))
        return family.denoise(self.noised, self.timesteps, prompts, self.sizes).cpu()


@dataclass(frozen=True)
class Verification:
    """Norms. `effect`: how far the LoRA alone moves the probe. `difference`: of file and model, by effect."""

    effect: float
    difference: float


def verify(path: Path, family: ModelFamily, probe: Probe, base: Tensor, trained: Tensor) -> Verification:
    """Load `path` onto the bare base and compare. `base`, `trained`: the probe's predictions before and after training.

    Raises VerificationFailed when the base was altered, the file differs from the trained model, or has no effect,
    and ArtifactError when it cannot be placed.
    """
    noise = NOISE[next(family.denoiser.parameters()).dtype] * base.norm().item()
    if (probe.predict(family, {}) - base).norm().item() > noise:
        raise VerificationFailed(f"{path}: the base model itself was altered by the training")
    artifact = Artifact.read(path)
    unchanged = [name for name, layer in artifact.layers.items() if layer.changes_nothing]
    if unchanged:
        raise VerificationFailed(
            f"{path}: {len(unchanged)} of {len(artifact.layers)} layers were never trained, such as {unchanged[0]}"
        )
    sampler = Sampler(family)
    try:
        sampler.load(artifact, scale=0.0)
        tokens_alone = probe.predict(family, sampler.triggers)
        sampler.load(artifact)
        loaded = probe.predict(family, sampler.triggers)
    finally:
        sampler.unload()
    effect, difference = (trained - tokens_alone).norm().item(), (loaded - trained).norm().item()
    if effect == 0 or not torch.isfinite(loaded).all():
        raise VerificationFailed(f"{path}: the LoRA has no effect, or one that is not finite")
    if difference > RELATIVE_TOLERANCE * effect + noise:
        raise VerificationFailed(
            f"{path}: read back, the LoRA differs from the trained model by {difference:.3g}, "
            f"where its whole effect is {effect:.3g}"
        )
    return Verification(effect, difference / effect)
