"""Tests that a resumed training of Stage B equals an uninterrupted one bit for bit, including drawn conditions."""

from pathlib import Path

import torch
from accelerate import Accelerator

from families.family import ModelFamily, SizeConditioning
from preprocess.dataset import PreparedDataset
from settings.training import build_config
from tests.tiny_cascade import write_stage_b
from tests.tiny_models import opened
from trainer.building import build_training
from trainer.checkpoints.folders import Checkpoints, read_checkpoint
from trainer.checkpoints.training_state import restore
from trainer.data.latent_cache import CachedExample, CachedView
from trainer.resolution import resolve
from trainer.training import Training

STEPS, SIDE = 3, 64


def training_on(family: ModelFamily, base: Path) -> Training:
    """Build a training on two random images, which are also the conditions, in batches of two."""
    pictures = torch.randint(0, 256, (2, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    size = SizeConditioning((SIDE, SIDE), (0, 0), (SIDE, SIDE))
    latents = family.encode_image(pictures.float() / 127.5 - 1)
    views = [CachedView(one, None, size, picture) for one, picture in zip(latents, pictures, strict=True)]
    examples = [CachedExample((view,), "a star", "", (SIDE, SIDE), 1, 1.0) for view in views]
    config = build_config({
        "base_model": str(base), "trigger_word": "", "max_train_steps": STEPS, "train_batch_size": 2,
        "resolution": SIDE, "learning_rate": 1e-2, "lr_warmup_steps": 0, "mask_floor": None, "seed": 0, "rank": 2,
    })  # fmt: skip
    dataset = PreparedDataset(Path(), (), (), ())
    return build_training(resolve(config, family), family, dataset, examples, Accelerator(cpu=True))


def test_stage_b_resumes_bit_for_bit(tmp_path: Path) -> None:
    base = write_stage_b(tmp_path / "base")
    family = opened(base)
    sides: list[int] = []
    family.pipeline().encoder.register_forward_pre_hook(lambda _, inputs: sides.append(inputs[0].shape[-1]))
    checkpoints = Checkpoints(tmp_path)
    training = training_on(family, base)
    expected = []
    for step in training.trainer.steps():
        expected.append(step.losses)
        if step.number < STEPS:
            checkpoints.write(training)
    training.remove()
    read = list(sides)
    assert len(read) == STEPS and len(set(read)) > 1  # the size at which the images are read varies
    for kill in (1, 2):
        sides.clear()
        training = training_on(family, base)
        restore(training, read_checkpoint(checkpoints.path(kill)))
        assert [step.losses for step in training.trainer.steps()] == expected[kill:]
        assert sides == read[kill:]
        training.remove()
