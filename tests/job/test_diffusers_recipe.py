"""Tests that the report's recipe for diffusers generates the same image as this program, with several families."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from artifact.artifact import Artifact
from families.family import ModelFamily
from job.report.diffusers_recipe import diffusers_recipe
from job.report.recipe import Trained
from sampler.sampler import Sampler, SampleRequest
from tests.families.test_family_files import random_lora
from tests.fast_part import slow_but
from tests.tiny_models import TINY_MODELS, opened

PROMPT, SCALE = "a photo of TOK on the moon", 0.5
SETTINGS = "width=64, height=64, num_inference_steps=2, guidance_scale=3.0, generator=torch.Generator().manual_seed(5)"


def with_words(family: ModelFamily) -> Artifact:
    """Returns a random LoRA with two tokens, like that of a training."""
    artifact, generator = random_lora(family), torch.Generator().manual_seed(1)
    assert artifact.description is not None
    rows = {
        name: 0.3 * torch.randn(2, encoder.get_input_embeddings().embedding_dim, generator=generator)
        for name, encoder in zip(family.encoder_names, family.text_encoders, strict=True)
    }
    words = ["<s0>", "<s1>"] if rows else []
    return replace(artifact, tokens=rows, description=replace(artifact.description, triggers={"TOK": words}))


def run_recipe(trained: Trained, folder: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Runs the recipe on a CPU with few steps, and returns its image."""
    text = re.sub(r"torch.b?float16", "torch.float32", diffusers_recipe(trained, SCALE).text).replace('"cuda"', '"cpu"')
    text = re.sub(r"pipe\((prompt[^)]*)\)\.images", rf"pipe(\1, {SETTINGS}).images", text)
    monkeypatch.chdir(folder)
    exec(compile(text, "recipe", "exec"), {})
    with Image.open(folder / "image.png") as image:
        return np.asarray(image.convert("RGB"), int)


@pytest.mark.parametrize("kind", slow_but(["sd3"], ["sd15", "sdxl", "sd3", "flux1", "flux2", "z-image"]))
def test_the_recipe_draws_the_same(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = TINY_MODELS[kind](tmp_path / "base")
    family = opened(base)
    artifact = with_words(family)
    artifact.write(
        tmp_path / "weights.safetensors", "fp32", architecture=family.architecture,
        base_model_version=family.base_model_version,
    )  # fmt: skip
    if artifact.tokens:
        artifact.write_embeddings(tmp_path / "embeddings.safetensors")
    sampler = Sampler(family)
    request = SampleRequest(PROMPT, width=64, height=64, num_inference_steps=2, guidance_scale=3.0, seed=5)
    bare = np.asarray(sampler.generate(request)[0], int)
    sampler.load(Artifact.read(tmp_path / "weights.safetensors"), SCALE)
    ours = np.asarray(sampler.generate(request)[0], int)
    pipeline = type(family.pipeline()).__name__
    vae = str(base / "vae") if kind == "sd3" else None  # it is the base model's own VAE
    trained = Trained(str(base), pipeline, family.encoder_names, "lora", ["TOK"], PROMPT, vae=vae)
    assert np.abs(ours - bare).max() > 8
    assert np.abs(run_recipe(trained, tmp_path, monkeypatch) - ours).max() <= 1


@pytest.mark.parametrize(
    ("adapter", "loads", "said"),
    [
        ("lora", "weights.safetensors", "The LoRA and the embeddings"),
        ("rslora", "weights.safetensors", "The LoRA and the embeddings"),
        ("dora", "plain-lora.safetensors", "python -m artifact resize"),
        ("loha", "plain-lora.safetensors", "python -m artifact resize"),
        ("lokr", "plain-lora.safetensors", "python -m artifact resize"),
        ("full", None, "python -m artifact merge weights.safetensors --weights 1 --onto base/model"),
        ("none", None, "The embeddings"),
    ],
)
def test_what_diffusers_cannot_open_is_made_openable(adapter: str, loads: str | None, said: str) -> None:
    recipe = diffusers_recipe(Trained("base/model", "StableDiffusionPipeline", ["clip_l"], adapter, ["TOK"], PROMPT), 1)
    compile(recipe.text, "recipe", "exec")
    assert said in recipe.note
    assert ("load_lora_weights" in recipe.text) == (loads is not None) and (loads or "") in recipe.text


def test_each_word_has_its_own_tokens() -> None:
    trained = Trained("base/model", "StableDiffusionPipeline", ["clip_l"], "lora", ["TOK", "HAT"], "TOK with a HAT")
    code = diffusers_recipe(trained, 1).text
    first, last = code.index("prompt, count"), code.index("pipe(prompt=")
    names = {"tokens": ["<s0>", "<s1>", "<s2>", "<s3>"], "re": re}
    exec(code[first:last], names)
    assert names["prompt"] == "<s0><s1> with a <s2><s3>"


def test_a_word_inside_another_one_stays() -> None:
    prompt = "TOK and TOK-2 in TOKYO"
    trained = Trained("base/model", "StableDiffusion3Pipeline", ["clip_l"], "lora", ["TOK", "TOK-2"], prompt)
    code = diffusers_recipe(trained, 1).text
    names = {"tokens": ["<s0>", "<s1>"], "re": re}
    exec(code[code.index("prompt, count") : code.index("pipe(prompt=")], names)
    assert names["prompt"] == "<s0> and <s1> in TOKYO"
    assert "prompt_3='and in TOKYO'" in code and code.startswith("import re\n")


def test_the_base_s_revision_and_another_vae() -> None:
    trained = Trained("owner/base", "FluxPipeline", (), "lora", ["TOK"], PROMPT, "v2", "vae.safetensors")
    text = diffusers_recipe(trained, SCALE).text
    assert "from diffusers import AutoencoderKL, FluxPipeline" in text
    assert "vae = AutoencoderKL.from_single_file('vae.safetensors', torch_dtype=torch.bfloat16)" in text
    assert "FluxPipeline.from_pretrained('owner/base', revision='v2', vae=vae, dtype=torch.bfloat16)" in text
    merged = diffusers_recipe(replace(trained, adapter="full"), SCALE).text
    assert "revision" not in merged and "vae=vae" in merged
