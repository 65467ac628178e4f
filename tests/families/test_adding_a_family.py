"""docs/adding-a-family.md is true: its table is complete, and its example works as it stands there."""

import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

from families import registry
from families.family import ModelFamily
from families.noise.noise_process import NoiseProcess
from families.registry import load_base_model
from job.output_folder import OutputFolder
from job.run import run
from settings.training import TrainingConfig
from tests.conftest import EXAMPLE, PROJECT
from tests.tiny_models import tiny_clip, tiny_t5, tiny_t5_tokenizer, tiny_tokenizer, tiny_vae

PAGE = (PROJECT / "docs" / "adding-a-family.md").read_text(encoding="utf-8")


def test_every_member_of_the_interface_is_explained() -> None:
    table = PAGE[PAGE.index("| member") : PAGE.index("## Noise")]
    members = {*ModelFamily.__annotations__, *vars(ModelFamily)}
    missing = {name for name in members if not name.startswith("_") and f"`{name}`" not in table}
    assert missing == set()
    noise = PAGE[PAGE.index("## Noise") : PAGE.index("## An example")]
    assert {name for name in vars(NoiseProcess) if not name.startswith("_") and f"`{name}`" not in noise} == set()


def test_every_file_that_is_named_exists() -> None:
    named = set(re.findall(r"`((?:families|tests)/[\w/]+\.py)`", PAGE))
    assert len(named) > 5 and [name for name in named if not (PROJECT / name).is_file()] == []


def flux_of_the_page() -> Any:
    code = re.search(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert code is not None
    module = types.ModuleType("flux_of_the_page")
    sys.modules[module.__name__] = module
    exec(compile(code[1], str(PROJECT / "docs" / "adding-a-family.md"), "exec"), module.__dict__)
    return module.Flux


def write_flux(folder: Path) -> Path:
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=96,
        pooled_projection_dim=32,
        guidance_embeds=True,
        axes_dims_rope=(4, 4, 8),
    )
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=tiny_vae(scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=tiny_clip("CLIPTextModel", 32),
        tokenizer=tiny_tokenizer(),
        text_encoder_2=tiny_t5(),
        tokenizer_2=tiny_t5_tokenizer(),
        transformer=transformer,
    )
    pipeline.save_pretrained(folder)
    return folder


def test_the_example_trains_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flux = flux_of_the_page()
    monkeypatch.setattr(flux, "native_resolution", 64)  # diffusers' pipeline claims 128 latents, however small it is
    monkeypatch.setitem(registry.FAMILIES, flux.pipeline_class_name, flux)
    folder = write_flux(tmp_path / "base")

    family = load_base_model(str(folder), torch.float32)
    theirs = family.pipeline().encode_prompt("a red star", None)
    ours = family.encode_prompts(["a red star"])
    torch.testing.assert_close(ours.prompt_embeds, theirs[0])
    torch.testing.assert_close(ours.pooled_prompt_embeds, theirs[1])

    config = TrainingConfig(
        base_model=str(folder), max_train_steps=3, train_batch_size=2, rank=4, learning_rate=1e-2,
        token_learning_rate=1e-2, num_validation_images=1, num_inference_steps=2,
    )  # fmt: skip
    output = OutputFolder.create(tmp_path / "out")
    assert any(event.message.startswith("verified") for event in run(config, [EXAMPLE], output))
    assert (output.samples / "00.png").is_file()
