"""Alphas that are stored as whole numbers, as kohya's svd_merge_lora.py does (networks/svd_merge_lora.py)."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from artifact.artifact import Artifact
from artifact.errors import ArtifactError


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.float16])
def test_an_alpha_of_any_type_is_a_number(dtype: torch.dtype, tmp_path: Path) -> None:
    name = "lora_unet_mid_block_attentions_0_proj_in"
    tensors = {"lora_down.weight": torch.ones(4, 8), "lora_up.weight": torch.ones(8, 4)}
    save_file(
        {f"{name}.{key}": tensor for key, tensor in {**tensors, "alpha": torch.tensor(2, dtype=dtype)}.items()},
        tmp_path / "merged.safetensors",
    )
    assert Artifact.read(tmp_path / "merged.safetensors").layers[name].alpha == 2.0


def test_whole_numbers_in_place_of_weights_are_refused(tmp_path: Path) -> None:
    down, up = torch.ones(4, 8, dtype=torch.int64), torch.ones(8, 4)
    save_file({"a.lora_down.weight": down, "a.lora_up.weight": up}, tmp_path / "a.safetensors")
    with pytest.raises(ArtifactError, match="has the type torch.int64"):
        Artifact.read(tmp_path / "a.safetensors")
