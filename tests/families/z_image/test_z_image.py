"""Tests of Z-Image against diffusers' pipeline: prompts, images, latents, guidance and scheduler steps."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ZImagePipeline
from PIL import Image
from transformers import Qwen3ForCausalLM, Qwen3Model

from families.errors import BaseModelError
from families.family import ModelFamily
from families.noise.noise_process import Draw
from families.registry import load_base_model
from sampler.guidance_notes import guidance_notes
from sampler.request import SampleRequest, filled
from sampler.sampler import Sampler
from settings.training import TrainingConfig
from tests.tiny_models import opened, write_z_image
from trainer.adapters.peft_adapter import PeftAdapter
from trainer.adapters.targets import denoiser_targets

PROMPT = "a red star, by night"
LONGER = PROMPT + ", and a blue one beside it"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_z_image(tmp_path_factory.mktemp("z_image") / "base")


@pytest.fixture(scope="module")
def family(folder: Path) -> ModelFamily:
    return opened(folder)


@pytest.fixture(scope="module")
def turbo(tmp_path_factory: pytest.TempPathFactory) -> ModelFamily:
    return opened(write_z_image(tmp_path_factory.mktemp("z_image") / "turbo", turbo=True))


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    made = ZImagePipeline.from_pretrained(folder)
    made.set_progress_bar_config(disable=True)
    return made


def test_prompts_of_different_lengths_are_those_of_the_pipeline(family: ModelFamily, theirs: Any) -> None:
    features = family.encode_prompts([PROMPT, LONGER])
    with torch.no_grad():
        expected, _ = theirs.encode_prompt([PROMPT, LONGER])
    assert len(expected[0]) < len(expected[1]) < 512
    assert all(torch.equal(ours, wanted) for ours, wanted in zip(features.unpadded(), expected, strict=True))
    assert features.prompt_mask is not None and features.mask.sum(1).tolist() == [len(each) for each in expected]


def test_prompts_leave_room_for_a_thought(family: ModelFamily) -> None:
    """With thinking disabled, Qwen3's template adds an empty thought after the prompt, which was not in Z-Image's
    training."""
    tokenizer = family.pipeline().tokenizer
    message = [{"role": "user", "content": PROMPT}]
    counts = {
        thinking: len(
            tokenizer(
                tokenizer.apply_chat_template(
                    message, tokenize=False, add_generation_prompt=True, enable_thinking=thinking
                )
            ).input_ids
        )
        for thinking in (True, False)
    }
    assert family.encode_prompts([PROMPT]).length == counts[True] < counts[False]


@pytest.mark.parametrize("guidance", [0.0, 4.0])
def test_pictures_are_those_of_the_pipeline(guidance: float, family: ModelFamily, theirs: Any) -> None:
    """Guidance is pos + s(pos − neg), so s = 0 means no guidance."""
    options: dict[str, Any] = {
        "width": 64, "height": 48, "num_inference_steps": 2, "guidance_scale": guidance, "negative_prompt": "blur",
    }  # fmt: skip
    drawn = Sampler(family).generate(SampleRequest(PROMPT, seed=3, **options))
    wanted = theirs(prompt=PROMPT, generator=[torch.Generator().manual_seed(3)], **options).images
    assert drawn[0].tobytes() == wanted[0].tobytes()


def test_latents_are_those_of_the_pipeline(family: ModelFamily) -> None:
    pixels = torch.rand(2, 3, 64, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    config = family.vae.config
    with torch.no_grad():
        cached = family.encode_image(pixels)
        latents = family.latents(cached, torch.zeros(family.latent_shape(cached.shape)))
        mean = family.vae.encode(pixels).latent_dist.mean
        torch.testing.assert_close(latents, (mean - config.shift_factor) * config.scaling_factor)
        torch.testing.assert_close(family.decode(latents), family.vae.decode(mean).sample, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("steps", [1, 4])
def test_a_step_of_its_scheduler_by_the_true_velocity_is_the_picture(steps: int, family: ModelFamily) -> None:
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(1, 4, 6, 8, generator=generator) for _ in range(2))
    scheduler = family.pipeline().scheduler
    scheduler.set_timesteps(sigmas=[1 - step / steps for step in range(steps)])
    noised = noise
    for time in scheduler.timesteps:
        draw = Draw(time.float().expand(1), noise)
        torch.testing.assert_close(noised, family.noise_process.corrupt(latents, draw))
        noised = scheduler.step(family.noise_process.target(latents, draw), time, noised).prev_sample
    torch.testing.assert_close(noised, latents)


def test_time_runs_towards_the_picture_and_the_prediction_is_turned(
    family: ModelFamily, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transformer's output points to the image. The loss and the scheduler use the velocity, which points to the
    noise."""
    asked: list[Any] = []

    def watched(pictures: list[torch.Tensor], times: torch.Tensor, texts: list[torch.Tensor], **_: Any) -> Any:
        asked.extend((times.tolist(), [tuple(each.shape) for each in pictures], [len(text) for text in texts]))
        return ([torch.full_like(each, number + 1.0) for number, each in enumerate(pictures)],)

    monkeypatch.setattr(family.denoiser, "forward", watched)
    features = family.encode_prompts([PROMPT, LONGER])
    velocity = family.denoise(torch.zeros(2, 4, 6, 8), torch.tensor([250.0, 1000.0]), features, ())
    assert asked == [[0.75, 0.0], [(4, 1, 6, 8)] * 2, [len(text) for text in features.unpadded()]]
    assert torch.equal(velocity, -torch.tensor([1.0, 2.0]).view(2, 1, 1, 1).expand(2, 4, 6, 8))


def test_a_batch_is_its_images_one_by_one(family: ModelFamily) -> None:
    """The prediction for an image does not depend on prompts of other lengths in the batch."""
    noised = torch.randn(2, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    times, prompts = torch.tensor([250.0, 750.0]), [PROMPT, 6 * LONGER]
    with torch.no_grad():
        together = family.denoise(noised, times, family.encode_prompts(prompts), ())
        alone = [
            family.denoise(noised[[number]], times[[number]], family.encode_prompts([prompt]), ())
            for number, prompt in enumerate(prompts)
        ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("targets", "count"), [("attention", 4 * 4), ("attention+feed-forward", 7 * 4)])
def test_every_layer_that_is_adapted_learns(targets: str, count: int, family: ModelFamily) -> None:
    """The tiny transformer has two layers, and one refiner of each of the two kinds."""
    paths = denoiser_targets(family, TrainingConfig(lora_targets=targets))
    assert len(paths) == count
    adapter = PeftAdapter(family.denoiser, "lora", 2, 2.0, paths, torch.Generator().manual_seed(0))
    noised = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    family.denoise(noised, torch.tensor([500.0]), family.encode_prompts([PROMPT]), ()).square().sum().backward()
    ups = {name: value for name, value in family.denoiser.named_parameters() if "lora_B" in name}
    assert len(ups) == count
    assert [name for name, value in ups.items() if value.grad is None or not value.grad.any()] == []
    adapter.remove()


def test_turbo_is_recognised_by_its_scheduler(family: ModelFamily, turbo: ModelFamily) -> None:
    (note,) = turbo.training_notes
    assert "Z-Image Turbo" in note and "Train on Z-Image" in note and not family.training_notes
    assert (turbo.defaults.num_inference_steps, turbo.defaults.guidance_scale) == (9, 0.0)
    assert (family.defaults.num_inference_steps, family.defaults.guidance_scale) == (50, 4.0)
    assert (turbo.architecture, turbo.base_model_version) == ("z-image-turbo", "zimage_turbo")
    for base, shift in ((family, 6.0), (turbo, 3.0)):
        half = base.noise_process.timesteps_at(torch.tensor([0.5]), torch.Size((1, 4, 8, 8)))
        torch.testing.assert_close(half, torch.tensor([1000 * shift / (1 + shift)]))


def test_a_negative_prompt_without_guidance_is_a_warning(family: ModelFamily, turbo: ModelFamily) -> None:
    asked = SampleRequest(PROMPT, negative_prompt="blur", left_open=("guidance_scale", "num_inference_steps"))
    assert list(guidance_notes(asked, filled(asked, family), family)) == []
    (note,) = guidance_notes(asked, filled(asked, turbo), turbo)
    assert note == "warning: negative_prompt has no effect without guidance: guidance_scale is 0"


@pytest.mark.parametrize("guidance", [0.0, 4.0])
def test_pictures_are_changed_and_repainted(guidance: float, family: ModelFamily) -> None:
    sampler, red = Sampler(family), Image.new("RGB", (64, 64), (200, 30, 30))
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    request: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": guidance, "image": red}
    (changed,) = sampler.generate(SampleRequest(PROMPT, strength=0.5, **request))
    (repainted,) = sampler.generate(SampleRequest(PROMPT, mask=mask, **request))
    assert changed.size == (64, 64) and changed.tobytes() != red.tobytes()
    assert repainted.crop((32, 0, 64, 64)).tobytes() == red.crop((32, 0, 64, 64)).tobytes()
    assert repainted.crop((0, 0, 32, 64)).tobytes() != red.crop((0, 0, 32, 64)).tobytes()


def test_a_base_that_was_saved_with_its_whole_language_model(folder: Path, family: ModelFamily, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    whole = Qwen3ForCausalLM(Qwen3Model.from_pretrained(copy / "text_encoder").config)
    whole.model.load_state_dict(Qwen3Model.from_pretrained(copy / "text_encoder").state_dict())
    whole.save_pretrained(copy / "text_encoder")
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps(index | {"text_encoder": ["transformers", "Qwen3ForCausalLM"]}))
    again = load_base_model(str(copy), torch.float32)
    assert torch.equal(again.encode_prompts([PROMPT]).prompt_embeds, family.encode_prompts([PROMPT]).prompt_embeds)


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        ("vae", {"latent_channels": 16}, "in_channels is 4, but the VAE's latent_channels is 16"),
        ("text_encoder", {"hidden_size": 32}, "cap_feat_dim is 16, but the text encoder's hidden_size is 32"),
    ],
)
def test_parts_that_do_not_fit(
    part: str, values: dict[str, object], message: str, folder: Path, tmp_path: Path
) -> None:
    """The configurations are sufficient to find the mismatch: the copy's weights are unreadable."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    config = copy / part / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | values))
    for file in copy.rglob("*.safetensors"):
        file.write_bytes(b"unreadable")
    with pytest.raises(BaseModelError, match=f"the components of .* do not match: .*{message}"):
        load_base_model(str(copy), torch.float32)


def test_a_text_encoder_of_another_family(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps(index | {"text_encoder": ["transformers", "T5EncoderModel"]}))
    with pytest.raises(BaseModelError, match="is a T5EncoderModel, but this model family needs a Qwen3Model"):
        load_base_model(str(copy), torch.float32)


def test_its_positions_limit_the_resolution(family: ModelFamily) -> None:
    """The tiny model has 32 rows of tokens of 8 pixels, the published one 512 rows of 16 pixels."""
    assert family.largest_side == 256
