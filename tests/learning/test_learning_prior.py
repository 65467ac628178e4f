"""Tests that an untrained prior overfits eight images, so that its samples resemble them, and that a ControlNet on it
determines which of them."""

import random
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor

from families.family import ModelFamily, SizeConditioning
from preprocess.control.filters import FILTERS
from preprocess.dataset import PreparedDataset
from sampler.request import Control
from sampler.sampler import Sampler, SampleRequest
from settings.training import TrainingConfig
from tests.conftest import EXAMPLE
from tests.tiny_cascade import write_cascade
from tests.tiny_models import opened
from trainer.building import build_training
from trainer.data.latent_cache import CachedExample, CachedView, to_levels
from trainer.resolution import resolve
from trainer.training import Training

SIDE, STEPS = 64, 500
LEARNED, AT_FIRST = 0.45, 0.3
"""Limits of the correlation of a sample with the most similar image: after training, and before."""
CONTROL, CONTROL_STEPS = "grey", 200
OBEYED = 0.25
"""Least difference of the correlation with the condition's image to that with the others, and to that without the
condition."""
PROMPT = "a photo of TOK"


def pictures() -> Tensor:
    """Returns the example's images: (8, 3, 64, 64) in [-1, 1]."""
    with zipfile.ZipFile(EXAMPLE) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith((".png", ".jpg")))
        opened_ones = [Image.open(archive.open(name)).convert("RGB").resize((SIDE, SIDE)) for name in names]
    return torch.stack([torch.from_numpy(np.array(each)).permute(2, 0, 1) / 127.5 - 1 for each in opened_ones])


def normalise_by(pixels: Tensor, family: Any) -> None:
    """Sets the statistics of the encoder's last norm to those of the images. The real encoder has those of many
    images."""
    statistics = family.vae.mapper[1]
    statistics.running_mean.zero_(), statistics.running_var.fill_(1.0)
    raw = family.encode_image(pixels)
    statistics.running_mean.copy_(raw.mean((0, 2, 3)))
    statistics.running_var.copy_(raw.var((0, 2, 3)))


def training_on(latents: Tensor, family: ModelFamily, base: Path) -> Training:
    """Returns a training of all weights of Stage C, and of the trigger word's tokens."""
    size = SizeConditioning((SIDE, SIDE), (0, 0), (SIDE, SIDE))
    examples = [CachedExample((CachedView(each, None, size),), PROMPT, "TOK", (SIDE, SIDE), 1, 1.0) for each in latents]
    config = TrainingConfig(
        base_model=str(base), adapter="full", max_train_steps=STEPS, train_batch_size=8, learning_rate=5e-3,
        token_learning_rate=1e-2, lr_warmup_steps=10, weight_decay=0.0, class_word="robot", caption_dropout=0.0,
        mask_floor=None, resolution=SIDE, seed=0,
    )  # fmt: skip
    dataset = PreparedDataset(Path(), (), (), ())
    return build_training(resolve(config, family), family, dataset, examples, Accelerator(cpu=True))


def controlnet_on(latents: Tensor, conditions: Sequence[Image.Image], base: Path, prior: Training) -> Any:
    """Trains a ControlNet on the trained prior. All images have the same prompt, so only the condition distinguishes
    them."""
    size = SizeConditioning((SIDE, SIDE), (0, 0), (SIDE, SIDE))
    views = [CachedView(one, None, size, to_levels(two)) for one, two in zip(latents, conditions, strict=True)]
    prompt = PROMPT.replace("TOK", "".join(prior.triggers["TOK"]))
    config = TrainingConfig(
        base_model=str(base), adapter="controlnet", control=CONTROL, trigger_word="", max_train_steps=CONTROL_STEPS,
        train_batch_size=8, learning_rate=1e-2, lr_warmup_steps=10, weight_decay=0.0, caption_dropout=0.0,
        resolution=SIDE, seed=0,
    )  # fmt: skip
    examples = [CachedExample((view,), prompt, "", (SIDE, SIDE), 1, 1.0) for view in views]
    dataset = PreparedDataset(Path(), (), (), ())
    training = build_training(resolve(config, prior.family), prior.family, dataset, examples, Accelerator(cpu=True))
    for _ in training.trainer.steps():
        pass
    assert training.controlnet is not None
    return training.controlnet.module


def samples(training: Training, family: ModelFamily, control: Control | None = None, count: int = 8) -> Tensor:
    """Returns Stage C's latents (count, 16, h, w) of `count` images, as Stage B gets them."""
    seen: list[Tensor] = []
    decoder = family.pipeline().decoder
    hook = decoder.register_forward_pre_hook(lambda _, __, inputs: seen.append(inputs["effnet"]), with_kwargs=True)
    request = SampleRequest(
        PROMPT, width=SIDE, height=SIDE, num_outputs=count, num_inference_steps=20, guidance_scale=1.0, control=control
    )
    Sampler(family).generate(request, triggers=training.triggers)
    hook.remove()
    return seen[0][:count]


def correlations(drawn: Tensor, latents: Tensor) -> Tensor:
    """Returns the correlation of each sample with each image."""
    ours, theirs = ((each.flatten(1) - each.flatten(1).mean(1, keepdim=True)) for each in (drawn, latents))
    unit = [each / each.norm(dim=1, keepdim=True) for each in (ours, theirs)]
    return unit[0] @ unit[1].T


def nearest(drawn: Tensor, latents: Tensor) -> float:
    """Returns the mean over samples of the correlation with the most similar image."""
    return float(correlations(drawn, latents).max(dim=1).values.mean())


def own_and_others(drawn: Tensor, latents: Tensor) -> tuple[float, float]:
    """Returns the mean correlation of the samples with the images of their conditions, and with the other images."""
    found, own = correlations(drawn, latents), torch.eye(len(latents), dtype=torch.bool)
    return float(found[own].mean()), float(found[~own].mean())


@pytest.mark.slow
def test_a_small_prior_overfits_eight_pictures_and_obeys_a_controlnet(tmp_path: Path) -> None:
    config = {"conditioning_dim": 64, "block_out_channels": (64, 64), "dropout": (0.0, 0.0)}
    base = write_cascade(tmp_path / "base", strides=(2, 2, 1), **config)
    family = opened(base)
    pixels = pictures()
    normalise_by(pixels, family)
    latents = family.encode_image(pixels)
    assert latents.shape == (8, 16, 6, 6)
    training = training_on(latents, family, base)
    before = samples(training, family)
    for _ in training.trainer.steps():
        pass
    after = samples(training, family)
    figures = [nearest(each, latents) for each in (before, after)]
    print(figures, float(after.std()))
    assert figures[0] < AT_FIRST and figures[1] > LEARNED
    assert 0.5 < after.std() < 1.5 < before.std()
    shown = [Image.fromarray(((each + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()) for each in pixels]
    conditions = [FILTERS[CONTROL](each, random.Random(0)) for each in shown]
    controlnet = controlnet_on(latents, conditions, base, training)
    steered, bare = (
        torch.cat([samples(training, family, Control(controlnet, each, scale), 1) for each in conditions])
        for scale in (1.0, 0.0)
    )
    own, others = own_and_others(steered, latents)
    without, _ = own_and_others(bare, latents)
    print(own, others, without)
    assert own - others > OBEYED and own - without > OBEYED
