"""The files of Stable Cascade's training guide train tiny bases, unchanged but for paths and how long they train."""

import json
import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from artifact.artifact import Artifact
from settings.importing.files import import_cascade
from settings.record import ConfigError
from settings.training import build_config
from tests.conftest import PROJECT
from tests.tiny_cascade import write_cascade
from tests.tiny_models import opened
from tests.warm_process import run_warm
from trainer.resolution import resolve

GUIDE = Path(__file__).parent / "guide"
SHORT: dict[str, Any] = {
    "max_train_steps": 2, "checkpointing_steps": 2, "sample_steps": None, "train_batch_size": 1, "resolution": 64,
    "trackers": [], "num_validation_images": 1, "num_inference_steps": 2, "evaluate": "false",
    "ema_start": 0, "ema_decay": 0, "ema_interval": 1,
}  # fmt: skip
"""Over what the files say: steps, batch and sides for a test, and no account at W&B."""


def write_shard(path: Path) -> Path:
    """A tar of webdataset: three pictures, each with its caption."""
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "trained"),
    [
        ("finetune_c_3b.yaml", lambda artifact: artifact.layers and not artifact.tokens),
        ("finetune_c_3b_lora.yaml", lambda artifact: {"[fernando]", "star"} <= set(artifact.triggers)),
    ],
)
def test_train_py_reads_them(file: str, trained: Callable[[Artifact], bool], tmp_path: Path) -> None:
    shard, base = write_shard(tmp_path / "dataset.tar"), write_cascade(tmp_path / "base")
    guide = tmp_path / file
    guide.write_text((GUIDE / file).read_text().replace("/path/to/dataset.tar", str(shard)))
    (tmp_path / "short.json").write_text(json.dumps(SHORT))
    words = ["train.py", "--cascade_config", str(guide), "--config", str(tmp_path / "short.json")]
    done = run_warm([*words, "--base_model", str(base), "--output", str(tmp_path / "out")], PROJECT)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "is left out" in done.stdout + done.stderr
    assert trained(Artifact.read(tmp_path / "out" / "weights.safetensors"))


def test_a_controlnet_of_stage_c_is_refused(tmp_path: Path) -> None:
    values = import_cascade(GUIDE / "controlnet_c_3b_canny.yaml").values
    family = opened(write_cascade(tmp_path / "base"))
    with pytest.raises(ConfigError, match="adapter: controlnet: a base of the family cascade has none"):
        resolve(build_config({**values, "base_model": "tiny"}), family)
