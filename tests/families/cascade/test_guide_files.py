"""Tests that the files of Stable Cascade's training guide train tiny bases, with changed paths and durations only."""

import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from artifact.artifact import Artifact
from sampler.generation import Generation
from service.prediction_inputs import PredictionInputs, predict
from settings.importing.files import import_cascade
from settings.record import ConfigError
from settings.training import build_config
from tests.conftest import PROJECT
from tests.tiny_cascade import add_image_encoder, write_cascade
from tests.tiny_models import opened
from tests.warm_process import run_warm
from trainer.resolution import resolve

GUIDE = Path(__file__).parent / "guide"
SHORT: dict[str, Any] = {
    "max_train_steps": 2, "checkpointing_steps": 2, "sample_steps": None, "train_batch_size": 1, "resolution": 64,
    "trackers": [], "num_validation_images": 1, "num_inference_steps": 2, "evaluate": "false",
    "ema_start": 0, "ema_decay": 0, "ema_interval": 1,
}  # fmt: skip
"""Settings that replace those of the files: few steps, small batches and images, and no W&B account."""

MAPPER = "lora_prior_unet_clip_img_mapper"
SIXTY_FOUR_BLOCKS: dict[str, Any] = {
    "down_num_layers_per_block": (8, 24), "up_num_layers_per_block": (24, 8), "block_out_channels": (8, 8),
    "num_attention_heads": (1, 1), "conditioning_dim": 8,
}  # fmt: skip


def write_shard(path: Path) -> Path:
    """Write a tar of webdataset with three images and their captions, and return its path."""
    with tarfile.open(path, "w") as shard:
        for number in range(3):
            pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)
            picture = BytesIO()
            Image.fromarray(pixels).save(picture, "PNG")
            for suffix, content in (("png", picture.getvalue()), ("txt", b"a photo of [fernando] by a star")):
                member = tarfile.TarInfo(f"{number:03d}.{suffix}")
                member.size = len(content)
                shard.addfile(member, BytesIO(content))
    return path


def trained_by(file: str, base: Path, folder: Path, **more: Any) -> Path:
    """Run `train.py` with the guide's file on a tiny base, and return the output folder. `more`: other settings."""
    shard, guide = write_shard(folder / "dataset.tar"), folder / file
    guide.write_text((GUIDE / file).read_text().replace("/path/to/dataset.tar", str(shard)))
    (folder / "short.json").write_text(json.dumps(SHORT | more))
    words = ["train.py", "--cascade_config", str(guide), "--config", str(folder / "short.json")]
    done = run_warm([*words, "--base_model", str(base), "--output", str(folder / "out")], PROJECT)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "is left out" in done.stdout + done.stderr
    return folder / "out"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "embedded", "trained"),
    [
        ("finetune_c_3b.yaml", 1.0, lambda artifact: MAPPER in artifact.layers and not artifact.tokens),
        ("finetune_c_3b_lora.yaml", 0.0, lambda artifact: {"[fernando]", "star"} <= set(artifact.triggers)),
    ],
)
def test_train_py_reads_them(file: str, embedded: float, trained: Callable[[Artifact], bool], tmp_path: Path) -> None:
    """`embedded`: share of the images that are trained with their embeddings; in the original code a tenth."""
    base = add_image_encoder(write_cascade(tmp_path / "base"))
    output = trained_by(file, base, tmp_path, image_embedding_share=embedded)
    assert trained(Artifact.read(output / "weights.safetensors"))


def drawn(asked: PredictionInputs, folder: Path) -> bytes:
    made = predict(
        asked, Generation(say=lambda _: None), folder, local_files=True, say=lambda _: None, metric=lambda *_: None
    )
    with Image.open(made.paths[0]) as picture:
        return picture.tobytes()


@pytest.mark.slow
def test_a_controlnet_is_trained_and_drawn_with(tmp_path: Path) -> None:
    """The tiny base has as many blocks as the 3.6B Stage C."""
    base = write_cascade(tmp_path / "base", (2, 2, 1), **SIXTY_FOUR_BLOCKS)
    output = trained_by("controlnet_c_3b_canny.yaml", base, tmp_path)
    assert not (output / "controlnet").exists()  # diffusers has no such class
    condition = output / "samples" / "conditions" / "00.png"
    read = load_file(output / "weights.safetensors")
    ends = {name: each for name, each in read.items() if name.startswith("projections") and name.endswith(".2.weight")}
    assert len(ends) == 8 and all(each.any() for each in ends.values())
    save_file(read | {name: 100 * each for name, each in ends.items()}, tmp_path / "stronger.safetensors")
    bare = PredictionInputs("a star", base_model=str(base), width=64, height=64, num_inference_steps=2, seed=5)
    steered = replace(bare, controlnet=str(output / "weights.safetensors"), control_image=condition)
    expected = drawn(bare, tmp_path / "bare")
    assert drawn(replace(steered, control_scale=0.0), tmp_path / "off") == expected
    stronger = replace(steered, controlnet=str(tmp_path / "stronger.safetensors"))
    assert drawn(stronger, tmp_path / "on") != expected


def test_blocks_that_the_base_lacks_are_refused(tmp_path: Path) -> None:
    """The file is for the 3.6B Stage C, which has 64 residual blocks. The base has 4."""
    values = import_cascade(GUIDE / "controlnet_c_3b_canny.yaml").values
    family = opened(write_cascade(tmp_path / "base"))
    with pytest.raises(ConfigError, match="controlnet_blocks: 63: tiny has 4 residual blocks, 0 to 3"):
        resolve(build_config({**values, "base_model": "tiny"}), family)
