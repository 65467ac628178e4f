"""Tests that the passes of a training step do not wait for the device: they read no values, and no copy blocks.

Tensors on torch's `meta` device have no values, so any read of one fails. Code that runs on it reads nothing.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from families.registry import load_base_model
from tests.families.golden_curves import curve_config, curve_training
from tests.tiny_models import write_sd3, write_sdxl
from trainer.data.batches import LatentBatch

META = torch.device("meta")
EVERYTHING: dict[str, Any] = {
    "conditioning_noise": 0.1,
    "input_perturbation": 0.1,
    "noise_offset": 0.05,
    "min_timestep": 0.1,
    "loss_weighting": "min_snr",
    "prior_matching_weight": 0.5,
    "prior_matching_interval": 1,
    "prior_matching_on": "everything",
    "mask": "subject",
    "token_attention_weight": 0.1,
    "optimizer": "adamw",
}


class Copies(TorchDispatchMode):
    """Counts copies from the CPU to another device that wait until they are done."""

    def __init__(self) -> None:
        super().__init__()
        self.there, self.blocking = 0, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        settings = dict(kwargs or {})
        if func is torch.ops.aten._to_copy.default and args[0].device.type == "cpu" and settings.get("device") == META:
            self.there += 1
            self.blocking += not settings.get("non_blocking", False)
        return func(*args, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("write", [write_sdxl, write_sd3])
def test_a_step_reads_nothing_and_copies_without_waiting(write: Any, tmp_path: Path) -> None:
    base = str(write(tmp_path / "base"))
    family = load_base_model(base, torch.float32)
    settings = EVERYTHING if write is write_sdxl else {}
    with curve_training(family, curve_config(base, **settings)) as training:
        batch = next(training.batches)
        modules = [family.denoiser, *family.text_encoders, family.pipeline().components.get("text_encoder_3")]
        modules = [module.to(META) for module in modules if module is not None]
        there = LatentBatch(
            batch.moments.to(META),
            batch.captions,
            batch.concepts,
            batch.sizes,
            None if batch.masks is None else batch.masks.to(META),
            batch.weights.to(META),
        )
        training.trainer.backward(there, 1.0)  # makes the copies that are made once
        with Copies() as copies:
            losses = training.trainer.backward(there, 1.0)
        trained = [each for module in modules for each in module.parameters() if each.requires_grad]
    assert copies.there > copies.blocking == 0
    assert {loss.device for loss in losses.values()} == {META}
    assert trained and all(each.grad is not None and each.grad.device == META for each in trained)


def test_a_read_of_the_device_would_be_seen() -> None:
    with pytest.raises(RuntimeError, match="meta"):
        torch.zeros((), device=META).item()
    with Copies() as copies:
        torch.zeros(3).to(META)
    assert copies.blocking == 1
