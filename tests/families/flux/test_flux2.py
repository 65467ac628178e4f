"""Tests of FLUX.2 against diffusers' pipelines: prompts, images, latents, positions and scheduler steps."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import Flux2KleinPipeline, Flux2Pipeline
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from PIL import Image

from families.errors import BaseModelError
from families.family import ModelFamily
from families.noise.noise_process import Draw
from families.registry import load_base_model
from sampler.guidance_notes import guidance_notes
from sampler.request import RequestError, SampleRequest, filled
from sampler.sampler import Sampler
from settings.training import TrainingConfig
from tests.tiny_models import opened, write_flux2, write_flux2_dev
from trainer.adapters.peft_adapter import PeftAdapter
from trainer.adapters.targets import denoiser_targets

PROMPT = "a red star, by night"
KINDS = ("base", "distilled", "dev")
PIPELINES: dict[str, Any] = {"base": Flux2KleinPipeline, "distilled": Flux2KleinPipeline, "dev": Flux2Pipeline}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("flux2")
    klein = {kind: write_flux2(folder / kind, distilled=kind == "distilled") for kind in ("base", "distilled")}
    return klein | {"dev": write_flux2_dev(folder / "dev")}


@pytest.fixture(scope="module")
def families(folders: dict[str, Path]) -> dict[str, ModelFamily]:
    return {kind: opened(folder) for kind, folder in folders.items()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_prompts_and_pictures_are_those_of_the_pipeline(
    kind: str, folders: dict[str, Path], families: dict[str, ModelFamily]
) -> None:
    family, theirs = families[kind], PIPELINES[kind].from_pretrained(folders[kind])
    theirs.set_progress_bar_config(disable=True)
    with torch.no_grad():
        embeds, _ = theirs.encode_prompt(PROMPT)
    assert torch.equal(family.encode_prompts([PROMPT]).prompt_embeds, embeds)
    options: dict[str, Any] = {"width": 64, "height": 48, "num_inference_steps": 2, "guidance_scale": 4.0}
    drawn = Sampler(family).generate(SampleRequest(PROMPT, seed=3, **options))
    wanted = theirs(prompt=PROMPT, generator=[torch.Generator().manual_seed(3)], **options).images
    assert drawn[0].tobytes() == wanted[0].tobytes()


def test_latents_are_those_of_the_pipeline(families: dict[str, ModelFamily]) -> None:
    """Latents are patches of the VAE's mean, without sampling, and then normalised. Decoding inverts both."""
    family = families["base"]
    pixels = torch.rand(2, 3, 64, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        cached = family.encode_image(pixels)
        theirs = family.pipeline()._encode_vae_image(pixels, None)
        torch.testing.assert_close(cached, theirs, rtol=1e-5, atol=1e-5)
        assert family.latent_shape(cached.shape) == cached.shape == (2, 16, 8, 6)
        latents = family.latents(cached, torch.randn(cached.shape))
        mean = family.vae.encode(pixels).latent_dist.mean
        torch.testing.assert_close(family.decode(latents), family.vae.decode(mean).sample, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("steps", [1, 4])
def test_a_step_of_its_scheduler_by_the_true_velocity_is_the_picture(
    steps: int, families: dict[str, ModelFamily]
) -> None:
    family = families["base"]
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(1, 16, 6, 8, generator=generator) for _ in range(2))
    scheduler = family.pipeline().scheduler
    scheduler.set_timesteps(sigmas=[1 - step / steps for step in range(steps)], mu=compute_empirical_mu(48, steps))
    noised = noise
    for time in scheduler.timesteps:
        draw = Draw(time.float().expand(1), noise)
        torch.testing.assert_close(noised, family.noise_process.corrupt(latents, draw))
        noised = scheduler.step(family.noise_process.target(latents, draw), time, noised).prev_sample
    torch.testing.assert_close(noised, latents)


def test_timesteps_lie_where_a_sampler_of_many_steps_has_them(families: dict[str, ModelFamily]) -> None:
    """FLUX.2 shifts timesteps more with fewer steps. Training uses the shift of 200 steps, the limit in its code."""
    for tokens, side in ((256, 16), (1024, 32), (4096, 64)):
        ours = families["base"].noise_process.timesteps_at(torch.tensor([0.5]), torch.Size((1, 128, side, side)))
        shift = torch.tensor([compute_empirical_mu(tokens, 200)]).exp()
        torch.testing.assert_close(ours, 1000 * shift / (1 + shift), rtol=1e-3, atol=0.0)


def test_places_are_those_of_the_pipeline(families: dict[str, ModelFamily], monkeypatch: pytest.MonkeyPatch) -> None:
    family, asked = families["base"], dict[str, Any]()
    forward = family.denoiser.forward

    def watched(**values: Any) -> Any:
        asked.update(values)
        return forward(**values)

    monkeypatch.setattr(family.denoiser, "forward", watched)
    features, noised = family.encode_prompts([PROMPT]), torch.randn(1, 16, 3, 5)
    family.denoise(noised, torch.tensor([250.0]), features, ())
    pipeline = Flux2KleinPipeline
    assert torch.equal(asked["img_ids"], pipeline._prepare_latent_ids(noised)[0].float())
    assert torch.equal(asked["txt_ids"], pipeline._prepare_text_ids(features.prompt_embeds)[0].float())
    assert torch.equal(asked["hidden_states"], pipeline._pack_latents(noised))
    assert asked["timestep"].tolist() == [0.25] and asked["guidance"] is None


def test_dev_reads_the_guidance_of_the_data_in_training(
    families: dict[str, ModelFamily], monkeypatch: pytest.MonkeyPatch
) -> None:
    family, asked = families["dev"], dict[str, Any]()
    forward = family.denoiser.forward

    def watched(**values: Any) -> Any:
        asked.update(values)
        return forward(**values)

    monkeypatch.setattr(family.denoiser, "forward", watched)
    family.denoise(torch.zeros(2, 16, 4, 4), torch.tensor([250.0, 750.0]), family.encode_prompts(["a", "b"]), ())
    assert asked["guidance"].tolist() == [1.0, 1.0]
    assert (family.architecture, family.base_model_version) == ("flux-2-dev", "flux2_dev")


@pytest.mark.parametrize(
    ("targets", "count"),
    [("attention", 8 + 2 * 2), ("attention+feed-forward", 8 + 4 + 2 * 2), ("all-linear", 8 + 4 + 2 * 2)],
)
def test_every_layer_that_is_adapted_learns(targets: str, count: int, families: dict[str, ModelFamily]) -> None:
    family = families["base"]
    paths = denoiser_targets(family, TrainingConfig(lora_targets=targets))
    assert len(paths) == count
    adapter = PeftAdapter(family.denoiser, "lora", 2, 2.0, paths, torch.Generator().manual_seed(0))
    noised = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    family.denoise(noised, torch.tensor([500.0]), family.encode_prompts(["a star"]), ()).square().sum().backward()
    ups = {name: value for name, value in family.denoiser.named_parameters() if "lora_B" in name}
    assert len(ups) == count
    assert [name for name, value in ups.items() if value.grad is None or not value.grad.any()] == []
    adapter.remove()


def test_base_models_read_what_is_not_wanted_and_distilled_ones_do_not(families: dict[str, ModelFamily]) -> None:
    def notes(kind: str) -> list[str]:
        asked = SampleRequest(PROMPT, negative_prompt="blur", left_open=("guidance_scale", "num_inference_steps"))
        return list(guidance_notes(asked, filled(asked, families[kind]), families[kind]))

    assert notes("base") == []
    for kind in ("distilled", "dev"):
        (note,) = notes(kind)
        assert "negative_prompt has no effect: this base model (flux2) is guidance-distilled" in note
    assert {kind: family.defaults.num_inference_steps for kind, family in families.items()} == {
        "base": 50, "distilled": 4, "dev": 50,
    }  # fmt: skip
    assert [kind for kind, family in families.items() if family.training_notes] == ["distilled"]
    sampler = Sampler(families["base"])
    drawn = [
        sampler.generate(SampleRequest(PROMPT, negative_prompt=unwanted, num_inference_steps=2, guidance_scale=4.0))[0]
        for unwanted in ("", "blur")
    ]
    assert drawn[0].tobytes() != drawn[1].tobytes()


def test_a_picture_is_repainted_and_not_taken_as_a_reference(families: dict[str, ModelFamily]) -> None:
    """In diffusers' klein pipeline `image` is a reference, not a starting image with a strength."""
    sampler, red = Sampler(families["base"]), Image.new("RGB", (64, 64), (200, 30, 30))
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    request: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 4.0, "image": red}
    (repainted,) = sampler.generate(SampleRequest(PROMPT, mask=mask, **request))
    kept, drawn = repainted.crop((32, 0, 64, 64)), repainted.crop((0, 0, 32, 64))
    assert kept.tobytes() == red.crop((32, 0, 64, 64)).tobytes()
    assert drawn.tobytes() != red.crop((0, 0, 32, 64)).tobytes()
    for kind, what in (("base", "Flux2KleinPipeline"), ("dev", "Flux2Pipeline")):
        with pytest.raises(RequestError, match=rf"image: diffusers has no such pipeline for {what} .flux2."):
            Sampler(families[kind]).generate(SampleRequest(PROMPT, **request))
    with pytest.raises(RequestError, match="mask: diffusers has no such pipeline for Flux2Pipeline .flux2."):
        Sampler(families["dev"]).generate(SampleRequest(PROMPT, mask=mask, **request))


def test_prompts_of_dev_may_name_the_mark_of_pictures(
    folders: dict[str, Path], families: dict[str, ModelFamily]
) -> None:
    with torch.no_grad():
        theirs, _ = Flux2Pipeline.from_pretrained(folders["dev"]).encode_prompt("a [IMG]star")
    assert torch.equal(families["dev"].encode_prompts(["a [IMG]star"]).prompt_embeds, theirs)


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        ("vae", {"latent_channels": 16}, "in_channels is 16, but the VAE's latent_channels times the patch area is 64"),
        (
            "text_encoder",
            {"hidden_size": 32},
            "joint_attention_dim is 48, but the width of the text encoder's concatenated states is 96",
        ),
    ],
)
def test_parts_that_do_not_fit(
    part: str, values: dict[str, object], message: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    """An example is klein 4B's transformer with klein 9B's text encoder. The configurations are sufficient to find the
    mismatch: the copy's weights are unreadable."""
    copy = shutil.copytree(folders["base"], tmp_path / "copy")
    config = copy / part / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | values))
    for file in copy.rglob("*.safetensors"):
        file.write_bytes(b"unreadable")
    with pytest.raises(BaseModelError, match=f"the components of .* do not match: .*{message}"):
        load_base_model(str(copy), torch.float32)


def test_a_tokenizer_without_its_template(folders: dict[str, Path], tmp_path: Path) -> None:
    copy = shutil.copytree(folders["base"], tmp_path / "copy")
    (copy / "tokenizer" / "chat_template.jinja").unlink()
    with pytest.raises(BaseModelError, match="its tokenizer has no chat template"):
        load_base_model(str(copy), torch.float32)


def test_its_names_tell_the_size(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    family = opened(folders["base"])
    for heads, size in ((24, "klein-4b"), (32, "klein-9b"), (2, "klein")):
        family.denoiser.register_to_config(num_attention_heads=heads, attention_head_dim=16 if heads == 2 else 128)
        assert family.architecture == f"flux-2-{size}"
        assert family.base_model_version == f"flux2_{size.replace('-', '_')}"
