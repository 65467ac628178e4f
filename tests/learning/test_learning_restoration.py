"""Tests that Stage B learns to restore images that it was not trained on, from their coarse latents."""

import json
import random
from pathlib import Path

import pytest
import torch
from PIL import Image

from artifact.artifact import Artifact
from artifact.placement.placing import PlacedArtifacts
from job.output_folder import OutputFolder
from job.run import run_stages
from job.stage import Job
from settings.importing.files import import_cascade
from settings.training import build_config
from tests.conftest import PROJECT
from tests.tiny_cascade import averaging_stage_a, write_stage_b
from tests.tiny_models import opened
from trainer.data.latent_cache import to_levels
from trainer.validation.restoration import psnr, restore

SIDE, PICTURES, HELD_OUT, STEPS = 32, 48, 8, 250
GAINED, OTHERS = 4.0, 2.0
"""Limits in dB: the PSNR gained by training, and how much higher it is with an image's own latents than with those of
another image."""
GUIDE = PROJECT / "tests" / "families" / "cascade" / "guide" / "finetune_b_3b.yaml"
"""The configuration file of Stage B from Stable Cascade's training guide, with its field names."""


def four_colours(seed: int) -> Image.Image:
    drawn = random.Random(seed)
    picture = Image.new("RGB", (2, 2))
    picture.putdata([tuple(drawn.randrange(256) for _ in range(3)) for _ in range(4)])
    return picture.resize((SIDE, SIDE), Image.Resampling.NEAREST)


def quality(family: object, pictures: list[torch.Tensor], conditions: list[torch.Tensor]) -> float:
    """Returns the mean PSNR of the images restored from `conditions`, compared with `pictures`."""
    drawn = restore(family, conditions, [""] * len(conditions), 10, 1.1)  # type: ignore[arg-type]
    return sum(map(psnr, drawn, pictures)) / len(drawn)


@pytest.mark.slow
def test_it_restores_pictures_that_it_has_not_seen(tmp_path: Path) -> None:
    base = write_stage_b(
        tmp_path / "base", averaging_stage_a(), patch_size=1, block_out_channels=(32, 32), num_attention_heads=(-1, 2)
    )
    (tmp_path / "pictures").mkdir()
    for number in range(PICTURES):
        four_colours(number).save(tmp_path / "pictures" / f"{number:02d}.png")
    config = build_config({
        **import_cascade(GUIDE).values, "base_model": str(base), "sources": [], "learning_rate": 1e-2, "ema_decay": 0,
        "ema_start": 0, "ema_interval": 1, "checkpointing_steps": STEPS, "sample_steps": None, "max_train_steps": STEPS,
        "train_batch_size": 16, "resolution": SIDE, "lr_warmup_steps": 20, "trackers": [],
        "validation_steps": STEPS, "validation_share": HELD_OUT / PICTURES, "num_validation_images": HELD_OUT,
    })  # fmt: skip
    output = OutputFolder.create(tmp_path / "out")
    list(run_stages(Job(config, [tmp_path / "pictures"], output)))

    found = json.loads(output.report.read_text(encoding="utf-8"))["restoration"]
    assert (found["pictures"], found["held_out"]) == (HELD_OUT, True)
    assert found["psnr_after"] > found["psnr_before"] + GAINED
    scored = [json.loads(line)["psnr"] for line in output.validation.read_text(encoding="utf-8").splitlines()]
    assert scored == pytest.approx([found["psnr_before"], found["psnr_after"]], abs=0.5)

    family = opened(base)
    unseen = [to_levels(four_colours(1000 + number)) for number in range(HELD_OUT)]
    PlacedArtifacts(family, [Artifact.read(output.weights)])
    assert quality(family, unseen, unseen) > quality(family, unseen, unseen[::-1]) + OTHERS
