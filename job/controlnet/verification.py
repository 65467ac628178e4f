"""Verifies a written ControlNet: its file and its folder are read back and compared with the trained model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from artifact.controlnet.files import read_controlnet
from families.controls.control import controllable
from families.controls.faces import reads_faces
from families.family import ModelFamily
from job.verification.table import Check, table
from job.verification.verify import (
    LEARNED,
    NOISE,
    RELATIVE_TOLERANCE,
    ROUNDING,
    Probe,
    Verification,
    VerificationFailed,
)
from settings.preparation import FACE_FEATURES


@torch.no_grad()
def controlled_prediction(probe: Probe, family: ModelFamily, controlnet: Any) -> Tensor:
    """Return the prediction for the probe, (B, C, h, w) on the CPU, with an image of random blocks, or a random face,
    as condition."""
    maker = controllable(family)
    assert maker is not None
    count = len(probe.noised)
    condition = _condition(controlnet, count, probe.sizes[0].target).to(family.device)
    prompts = family.encode_prompts([probe.prompt] * count)
    given = (probe.noised, probe.timesteps, prompts, probe.sizes)
    return family.denoise(*given, maker.control_residuals(controlnet, condition, *given)).cpu()


def _condition(controlnet: Any, count: int, size: tuple[int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    if reads_faces(controlnet):
        vector = torch.nn.functional.normalize(torch.randn(FACE_FEATURES, generator=generator), dim=0)
        return torch.cat([torch.tensor([0.0, 0.0, 0.5, 0.5]), vector]).expand(count, 1, -1)
    height, width = size
    blocks = torch.rand((count, 3, height // 8, width // 8), generator=generator)
    return torch.nn.functional.interpolate(blocks, (height, width))


def verify_controlnet(
    path: Path, family: ModelFamily, probe: Probe, base: Tensor, trained: Tensor, state: Mapping[str, Tensor]
) -> Verification:
    """Compare the file or folder at `path` with the trained ControlNet.

    `base`, `trained`: the probe's predictions without and with the ControlNet. `state`: its tensors, by diffusers'
    names.

    Raises VerificationFailed if the base model was altered, a tensor is lost, or the effect differs; and ArtifactError
    if the file cannot be read.
    """
    noise = NOISE[next(family.denoiser.parameters()).dtype] * base.norm().item()
    altered = (probe.predict(family, {}) - base).norm().item()
    read = read_controlnet(path, family)
    loaded = controlled_prediction(probe, family, read)
    effect, difference = (trained - base).norm().item(), (loaded - trained).norm().item()
    allowed = max(RELATIVE_TOLERANCE * effect, ROUNDING * base.norm().item()) + noise
    worst = max(_difference(read.state_dict()[name], tensor) for name, tensor in state.items())
    checks = [
        Check("the base model itself was altered, by", altered, noise),
        Check("a tensor of the file differs by", worst, RELATIVE_TOLERANCE),
        Check("predicted values are not finite", float((~torch.isfinite(loaded)).sum()), 0),
        Check("it differs from the trained model by", difference, allowed),
    ]
    if any(check.failed for check in checks):
        raise VerificationFailed(f"{path} does not reproduce the trained model:\n{table(checks, ())}")
    learned = effect >= LEARNED * base.norm().item()
    return Verification(effect, difference / effect if effect > 0 else 0.0, learned)


def _difference(one: Tensor, other: Tensor) -> float:
    """Return the norm of the difference relative to the norm of the trained tensor."""
    size = other.float().norm().item()
    gap = (one.float().cpu() - other.float().cpu()).norm().item()
    return gap / size if size > 0 else float(gap > 0)
