"""Tests of how mini-flow is made: its captions and tokens, its layout and size, and the agreement of its training with
the family of Z-Image."""

import json
import random
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, Qwen2Tokenizer

from families.family import SizeConditioning
from families.noise.flow_matching import FlowMatching
from families.parts.chat_prompts import chat_text
from tests.tiny_models import opened, tiny_vae
from tools.mini_base import cache_latents
from tools.mini_base.pictures import step_random
from tools.mini_base.scenes import ATTRIBUTES, Scene, Thing, background_phrase, caption, training_scene
from tools.mini_flow import captions, examples, train
from tools.mini_flow.assemble import assemble
from tools.mini_flow.models import make_scheduler, make_text_encoder, make_transformer
from tools.mini_flow.vocabulary import make_tokenizer

PROMPTS = ["a small red star on the left on a blue background", "a large dotted grey and pink heart with eyes", ""]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with the tokenizer, the captions of four images, one of them a crop, and their latents."""
    folder = tmp_path_factory.mktemp("mini-flow")
    make_tokenizer(folder, count=1500)
    torch.manual_seed(0)
    rows = [[f"a {word} star on a grey background"] * captions.VARIANTS for word in ("red", "blue", "pink", "white")]
    (folder / "captions.json").write_text(json.dumps({"rows": rows, "whole": [True, True, False, True]}))
    means = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 4, 16, 16)
    tensors = {"means": means.half().contiguous(), "deviations": torch.zeros(4, 4, 16, 16).half()}
    save_file(tensors, folder / "latents.safetensors")
    return folder


@pytest.fixture(scope="module")
def model(work: Path) -> train.FlowModel:
    """An untrained model with a random last layer, so that its output is not zero."""
    torch.manual_seed(0)
    transformer = make_transformer()
    for layer in transformer.all_final_layer.values():
        torch.nn.init.normal_(layer.linear.weight, std=0.1)
    return train.FlowModel(transformer.eval(), make_text_encoder(_tokenizer(work)).eval())


def _tokenizer(work: Path) -> Qwen2Tokenizer:
    return AutoTokenizer.from_pretrained(work / "tokenizer")


def test_a_word_of_the_world_is_one_token_wherever_it_stands(work: Path) -> None:
    tokenizer = _tokenizer(work)
    words = {
        word for attribute in ("colour", "shape", "place") for value in ATTRIBUTES[attribute] for word in value.split()
    }
    before, after = chat_text(tokenizer, "\0", thinking=True).split("\0")
    around = len(tokenizer(before + after).input_ids)
    for word in sorted(words):
        first = tokenizer(f"{before}{word}{after}").input_ids
        later = tokenizer(f"{before}{word} {word}{after}").input_ids
        assert (len(first) - len(later), len(later) + len(first)) == (-1, 2 * around + 1), word


def test_the_template_is_read_as_qwen3s(work: Path) -> None:
    tokenizer = _tokenizer(work)
    assert chat_text(tokenizer, "a star", thinking=True) == (
        "<|im_start|>user\n a star<|im_end|>\n<|im_start|>assistant\n"
    )
    assert chat_text(tokenizer, "a star", thinking=False).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    marks = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>", "<|endoftext|>"])
    assert len(set(marks)) == 3 and tokenizer.pad_token_id == marks[2]


def test_captions_of_a_picture_say_the_same_scene() -> None:
    scene = Scene((Thing("star", "red", size="large"),), "at the beach")
    for seed in range(20):
        cached, *others = captions.variants(scene, "cached", random.Random(seed))
        assert cached == "cached" and len(others) == captions.VARIANTS - 1
        assert all("a large red " in text for text in others)
        assert all(text.endswith("at the beach") or " at " not in text for text in others)


def test_the_scenes_are_those_that_were_drawn_and_cached() -> None:
    scenes = list(islice(captions.cached_scenes(3), 12))
    rng = step_random(cache_latents.SEED, 3)
    for scene, cached, side in scenes:
        _, own, time_ids = cache_latents.draw_example(rng)
        assert (cached, side) == (own, time_ids[0])
        assert scene.things[0].colour in cached
        assert background_phrase(scene) in cached or not cached.endswith("background")


def test_figures_come_after_the_scenes(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PICTURES", "FIGURES", "CHUNK"):
        monkeypatch.setattr(captions, name, 3)
    captions.build(tmp_path)
    built = captions.load(tmp_path)
    rng = step_random(cache_latents.SEED, 1)
    figures = [cache_latents.draw_figure_example(rng)[1] for _ in range(3)]
    assert len(built.rows) == len(built.whole) == 6
    assert built.rows[3:] == [[text] * captions.VARIANTS for text in figures]
    assert [row[0] for row in built.rows[:3]] == [cached for _, cached, _ in captions.cached_scenes(0)]


def test_a_foreign_noun_stands_for_the_first_shape_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captions, "FOREIGN_NOUNS", 1.0)
    rng = random.Random(3)
    for _ in range(50):
        scene = training_scene(rng)
        first, *others = scene.things
        for text in captions.variants(scene, "", rng)[1:]:
            assert all(thing.colour in text for thing in scene.things)
            assert first.shape not in text.split() or first.shape in {thing.shape for thing in others}


def test_every_caption_fits_into_the_longest_group(work: Path) -> None:
    rng = random.Random(5)
    texts = [caption(training_scene(rng), rng) for _ in range(400)]
    _, counts = examples.token_ids(_tokenizer(work), texts)
    assert counts.max() < examples.LENGTHS[-1]
    assert (counts <= examples.LENGTHS[0]).float().mean() > 0.8


def test_a_batch_has_whole_pictures_with_their_own_captions(work: Path) -> None:
    loaded = examples.load(work, work / "latents.safetensors")
    tokenizer = _tokenizer(work)
    seen = set()
    for seed in range(4):
        batch = loaded.batch(16, 0.3, torch.Generator().manual_seed(seed))
        for latents, ids, count in zip(batch.latents, batch.ids, batch.counts, strict=True):
            seen.add((latents.mean().item(), tokenizer.decode(ids[3 : count - 5])))
    said = {(0.0, "red"), (1.0, "blue"), (3.0, "white")}
    assert {(value, text.split()[1]) for value, text in seen if text.strip()} == said
    assert any(not text.strip() for _, text in seen)


@torch.no_grad()
def test_what_is_trained_is_what_the_family_and_the_pipeline_run(
    work: Path, model: train.FlowModel, tmp_path: Path
) -> None:
    """The velocity of the assembled model in its family is that of the training, in sign, time and text."""
    model.save(work)
    tiny_vae(scaling_factor=0.4).save_pretrained(tmp_path / "vae")
    assemble(work, tmp_path / "vae", tmp_path / "mini-flow")
    assert sum(path.stat().st_size for path in (tmp_path / "mini-flow").rglob("*") if path.is_file()) < 6_500_000
    family = opened(tmp_path / "mini-flow")
    assert (family.name, family.architecture, family.native_resolution) == ("z-image", "z-image", 64)
    assert family.defaults.guidance_scale > 0 and not family.training_notes  # not Turbo
    ids, counts = examples.token_ids(_tokenizer(work), PROMPTS)
    noised, sigmas = torch.randn(3, 4, 16, 16), torch.tensor([0.2, 0.5, 0.9])
    trained, _ = train.predict(model, noised, sigmas, examples.Batch(noised, ids, counts))
    sizes = [SizeConditioning((64, 64), (0, 0), (64, 64))] * 3
    used = family.denoise(noised, sigmas * 1000, family.encode_prompts(PROMPTS), sizes)
    assert trained.std() > 0.1
    torch.testing.assert_close(used, trained, atol=0.02, rtol=0.02)  # weights were rounded to fp16
    fractions = torch.tensor([0.1, 0.5])
    drawn = [process.timesteps_at(fractions, noised.shape) for process in (family.noise_process, train.make_process())]
    assert torch.equal(*drawn) and drawn[0][1] > 600
    assert family.pipeline().scheduler.config.use_dynamic_shifting


def test_padding_of_a_batch_changes_nothing(work: Path, model: train.FlowModel) -> None:
    ids, counts = examples.token_ids(_tokenizer(work), PROMPTS)
    latents = torch.randn(3, 4, 16, 16)
    process = FlowMatching.from_scheduler(make_scheduler(), 2)
    short, long = (
        train.losses(model, process, examples.Batch(latents, ids[:, :length], counts), torch.Generator().manual_seed(0))
        for length in examples.LENGTHS
    )
    torch.testing.assert_close(short, long, rtol=1e-3, atol=1e-3)


def test_an_interrupted_training_goes_on_as_if_it_had_not_stopped(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"BATCH_SIZE": 2, "CHECKPOINT_EVERY": 2}.items():
        monkeypatch.setattr(train, name, value)
    folders = [tmp_path / name for name in ("whole", "interrupted")]
    for folder in folders:
        folder.mkdir()
        for name in ("tokenizer", "captions.json"):
            (folder / name).symlink_to(work / name)
    train.train(folders[0], work / "latents.safetensors", 3)
    losses, calls = train.losses, []

    def stopped(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return losses(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(train, "losses", stopped)
    with pytest.raises(KeyboardInterrupt):
        train.train(folders[1], work / "latents.safetensors", 3)
    train.train(folders[1], work / "latents.safetensors", 3)
    assert len(calls) == 3 + 1
    whole, interrupted = (load_file(folder / "checkpoint" / "checkpoint.safetensors") for folder in folders)
    assert whole.keys() == interrupted.keys()
    assert all(torch.equal(whole[name], interrupted[name]) for name in whole)
