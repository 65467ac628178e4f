"""Tests of training Stage C with image embeddings in addition to captions, for a share of the images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessor

from families.cascade.family import Cascade
from families.family import Conditioning, SizeConditioning
from preprocess.crops.crop import centre_crop
from preprocess.dataset import PreparedDataset, View
from settings.record import ConfigError
from settings.training import build_config
from tests.tiny_cascade import add_image_encoder, write_cascade
from tests.tiny_models import opened, write_sdxl
from trainer.building import build_training
from trainer.checkpoints.folders import Checkpoints, read_checkpoint
from trainer.checkpoints.training_state import restore
from trainer.data.latent_cache import CachedExample, encode_view, to_levels
from trainer.noise.conditions import PictureEmbeddings, read_pictures
from trainer.resolution import resolve
from trainer.training import Training

SIDE, STEPS = 64, 4
SIZES = [SizeConditioning((SIDE, SIDE), (0, 0), (SIDE, SIDE))] * 2


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = add_image_encoder(write_cascade(tmp_path_factory.mktemp("cascade") / "base"))
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def family(base: Path) -> Cascade:
    loaded = opened(base)
    assert isinstance(loaded, Cascade)
    read_pictures(0.5, "tiny", loaded)
    return loaded


def pictures(base: Path) -> Tensor:
    return torch.stack([to_levels(Image.open(base / f"{number}.png")) for number in range(2)])


def test_embeddings_are_those_of_clips_own_processor(family: Cascade, base: Path) -> None:
    """Of a wide image the shorter side is scaled, and the centre is cropped."""
    processor = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    for wide in (pictures(base), torch.cat([pictures(base)] * 2, dim=3)):
        images = [Image.fromarray(each.permute(1, 2, 0).numpy()) for each in wide]
        expected = family.picture_encoder(**processor(images, return_tensors="pt")).image_embeds
        ours = family.picture_embeds(wide)
        assert ours.shape == (2, 16) and not ours.requires_grad
        torch.testing.assert_close(ours, expected, rtol=0.02, atol=0.02)  # the processor rounds to integers in between


def test_a_conditioning_image_does_not_take_the_place_of_the_picture(family: Cascade, base: Path) -> None:
    """A dataset that was prepared for a ControlNet may be trained without one."""
    view = View("0.png", centre_crop((SIDE, SIDE), (SIDE, SIDE)), control="1.png")
    read = encode_view(base, view, family).control
    assert read is not None and torch.equal(read, pictures(base)[0])


def test_the_denoiser_reads_them_and_zeros_are_none(family: Cascade, base: Path) -> None:
    noised = torch.randn((2, 16, 24, 24), generator=torch.Generator().manual_seed(0))
    given = noised, torch.tensor([300.0, 800.0]), family.encode_prompts(["a red star", ""]), SIZES
    embeds = family.picture_embeds(pictures(base))
    embeds[1] = 0
    with torch.no_grad():
        bare, read = family.denoise(*given), family.denoise(*given, Conditioning(image_embeds=embeds))
    assert torch.equal(bare[1], read[1]) and (bare[0] - read[0]).abs().max() > 1e-3


def test_a_share_of_the_pictures_is_embedded(family: Cascade, base: Path) -> None:
    condition = PictureEmbeddings(family, 0.25, torch.Generator().manual_seed(0))
    many = pictures(base)[:1].expand(400, -1, -1, -1)
    found = condition(many, torch.empty(0), torch.empty(0), family.encode_prompts([""]), [])
    assert found is not None and found.image_embeds is not None
    rows = found.image_embeds.any(dim=1)
    assert rows.float().mean().item() == pytest.approx(0.25, abs=0.06)
    assert torch.allclose(found.image_embeds[rows], family.picture_embeds(many[:1]), atol=1e-5)
    with pytest.raises(ValueError, match="the images were not cached"):
        condition(None, torch.empty(0), torch.empty(0), family.encode_prompts([""]), [])


def training_on(family: Cascade, base: Path, share: float) -> Training:
    config = build_config({
        "base_model": str(base), "trigger_word": "", "max_train_steps": STEPS, "train_batch_size": 2,
        "resolution": SIDE, "learning_rate": 1e-3, "lr_warmup_steps": 0, "image_embedding_share": share,
        "adapter": "full",
    })  # fmt: skip
    views = [
        encode_view(base, View(f"{number}.png", centre_crop((SIDE, SIDE), (SIDE, SIDE))), family) for number in (0, 1)
    ]
    assert all(view.control is not None for view in views)
    examples = [CachedExample((view,), "a star", "", (SIDE, SIDE), 1, 1.0) for view in views]
    dataset = PreparedDataset(Path(), (), (), ())
    return build_training(resolve(config, family), family, dataset, examples, Accelerator(cpu=True))


def test_it_resumes_bit_for_bit_and_trains_the_mapper(family: Cascade, base: Path, tmp_path: Path) -> None:
    """Full fine-tuning with embeddings changes the mapper. Without embeddings the losses are different. After the
    training is removed, the mapper has the base's weights."""
    checkpoints, expected = Checkpoints(tmp_path), []
    training = training_on(family, base, 0.5)
    mapper = family.denoiser.clip_img_mapper.weight
    start = mapper.clone()
    for step in training.trainer.steps():
        expected.append(step.losses)
        if step.number == 2:
            checkpoints.write(training)
    assert not torch.equal(mapper, start)
    training.remove()
    training = training_on(family, base, 0.5)
    restore(training, read_checkpoint(checkpoints.path(2)))
    assert [step.losses for step in training.trainer.steps()] == expected[2:]
    training.remove()
    training = training_on(family, base, 0.0)
    assert [step.losses for step in training.trainer.steps()] != expected
    training.remove()
    assert torch.equal(family.denoiser.clip_img_mapper.weight, start)


def test_bases_without_an_encoder_are_errors(family: Cascade, tmp_path: Path) -> None:
    without = opened(write_cascade(tmp_path / "without"))
    with pytest.raises(ConfigError, match="^image_embedding_share: .* has no image_encoder"):
        read_pictures(0.1, "tiny", without)
    read_pictures(0.0, "tiny", without)
    other = opened(add_image_encoder(write_cascade(tmp_path / "other"), width=8))
    with pytest.raises(ConfigError, match="^image_embedding_share: .* clip_image_in_channels is 16, .* 8"):
        read_pictures(0.1, "tiny", other)
    with pytest.raises(ConfigError, match=r"^image_embedding_share: tiny \(sdxl\) does not support image embeddings"):
        read_pictures(0.1, "tiny", opened(write_sdxl(tmp_path / "sdxl")))
    with pytest.raises(ConfigError, match="image_embedding_share has no effect with adapter: controlnet"):
        build_config({"adapter": "controlnet", "control": "canny", "image_embedding_share": 0.1})
    assert "clip_img_mapper" in without.idle_modules and "clip_img_mapper" not in family.idle_modules
