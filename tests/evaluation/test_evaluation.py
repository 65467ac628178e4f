"""Tests of identities of the metrics, of the embedded evaluator on drawn images, and of the choice and the verdict."""

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageStat
from transformers import BitImageProcessorPil, Dinov2Config, Dinov2Model

from evaluation.checkpoints import evaluation_prompts, thin
from evaluation.choice import Relative, choose, relate
from evaluation.drawing import DrawingPlan, Samples
from evaluation.embedding_cache import CachedEncoder
from evaluation.encoders import ClipEncoder, DinoEncoder
from evaluation.prompt_sets import PromptSet, plain_words, prompt_set
from evaluation.scores import Encoders, Judge
from evaluation.similarity import (
    mean_paired_similarity,
    mean_self_similarity,
    mean_similarity,
    nearest_other_similarity,
    nearest_similarity,
    text_margin,
)
from evaluation.subject_pictures import References, without_surroundings
from evaluation.verdict import give_verdict
from settings.record import ConfigError
from settings.training import build_config
from tests.job.report_folder import candidate, scores
from tools.make_example import robot
from tools.mini_base.scenes import Scene, Thing, draw


@pytest.fixture(scope="module")
def evaluator() -> ClipEncoder:
    return ClipEncoder()


def drawings(shape: str, colour: str, background: str) -> list[Image.Image]:
    return [draw(Scene((Thing(shape, colour),), background), random.Random(seed)) for seed in range(4)]


def test_identities() -> None:
    vectors = torch.nn.functional.normalize(torch.randn(5, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    shuffled = vectors[torch.tensor([3, 1, 4, 0, 2])]
    assert mean_paired_similarity(vectors, vectors) == pytest.approx(1, abs=1e-6)
    assert mean_self_similarity(vectors[:1].repeat(3, 1)) == pytest.approx(1, abs=1e-6)
    assert mean_self_similarity(shuffled) == pytest.approx(mean_self_similarity(vectors), abs=1e-6)
    assert mean_similarity(vectors, shuffled) == pytest.approx(mean_similarity(shuffled, vectors), abs=1e-6)
    pairs = [float(vectors[i] @ vectors[j]) for i, j in combinations(range(5), 2)]
    assert mean_self_similarity(vectors) == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)


def test_a_picture_is_nearest_to_its_like(evaluator: ClipEncoder) -> None:
    stars, circles = (evaluator.embed(drawings(shape, "red", "blue")) for shape in ("star", "circle"))
    assert mean_self_similarity(stars) > mean_similarity(stars, circles) + 0.05
    green = evaluator.embed(drawings("star", "red", "green"))
    assert mean_self_similarity(stars) > mean_similarity(stars, green) + 0.05


def test_the_example_is_one_concept_and_no_part_of_the_world(evaluator: ClipEncoder) -> None:
    rng = random.Random(1)
    robots = evaluator.embed([robot(64, background, rng) for background in ("blue", "white", "red", "green")])
    world = evaluator.embed([*drawings("square", "green", "blue"), *drawings("cross", "white", "red")])
    assert mean_self_similarity(robots) > 0.4
    assert mean_similarity(robots, world) < mean_self_similarity(robots) - 0.3


def test_order_and_company_do_not_matter(evaluator: ClipEncoder) -> None:
    pictures = drawings("heart", "yellow", "black")
    together = evaluator.embed(pictures)
    alone = torch.cat([evaluator.embed([picture]) for picture in reversed(pictures)]).flip(0)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_a_margin_is_zero_where_pictures_ignore_their_texts() -> None:
    texts = torch.eye(3)
    assert text_margin(texts, texts) == pytest.approx(1)
    assert text_margin(texts[:1].repeat(3, 1), texts) == pytest.approx(0, abs=1e-6)
    assert text_margin(texts, texts[:1].repeat(3, 1)) == 0.0


def test_nearest() -> None:
    vectors = torch.nn.functional.normalize(torch.tensor([[1.0, 0], [1, 0.1], [0, 1]]), dim=-1)
    assert nearest_similarity(vectors, vectors).tolist() == pytest.approx([1, 1, 1])
    others = nearest_other_similarity(vectors)
    assert others[0] == pytest.approx(float(vectors[0] @ vectors[1])) and others[2] < others[0]
    assert len(nearest_other_similarity(vectors[:1])) == 0 and mean_self_similarity(vectors[:1]) == 1


def test_an_image_that_is_in_the_data_twice_hides_no_copies(evaluator: ClipEncoder) -> None:
    prompts = PromptSet(("TOK",), ("a star",), ("a circle",))
    plan = DrawingPlan(prompts, 1, 64, 64, 1, 1.0, 0)
    base = Samples([drawings("circle", "green", "white")[:1]], drawings("ring", "red", "white")[:1])
    photos = [drawings("star", "red", "blue")[0], drawings("moon", "white", "red")[0]]
    encoders = Encoders(evaluator, CachedEncoder(evaluator), None)
    once, twice = (Judge(encoders, plan, References(given, []), base) for given in (photos, [photos[0], *photos]))
    copy = Samples([[photos[0].copy()]], base.unrelated)
    assert once.score(copy).copied == twice.score(copy).copied == 1
    assert twice.training_pictures == once.training_pictures < 0.9


def test_texts_and_pictures_meet(evaluator: ClipEncoder) -> None:
    captions = ["a photo of a red star on a blue background", "a photo of a green circle on a white background"]
    pictures = [drawings("star", "red", "blue")[0], drawings("circle", "green", "white")[0]]
    assert text_margin(evaluator.embed(pictures), evaluator.embed_texts(captions)) > 0.3


def test_embeddings_are_computed_once_and_kept(tmp_path: Path) -> None:
    class Counting:
        name = "counting"
        seen = 0

        def embed(self, images: Sequence[Image.Image]) -> torch.Tensor:
            self.seen += len(images)
            means = [ImageStat.Stat(image).mean for image in images]
            return torch.nn.functional.normalize(torch.tensor(means) + 1, dim=-1)

    inner, pictures = Counting(), drawings("moon", "white", "red")
    cached = CachedEncoder(inner, tmp_path / "cache.safetensors")
    first = cached.embed([*pictures, pictures[0]])
    assert inner.seen == len(pictures) and torch.equal(first[0], first[-1])
    cached.save()
    again = CachedEncoder(inner, tmp_path / "cache.safetensors")
    assert torch.equal(again.embed(pictures[::-1]), first[:-1].flip(0)) and inner.seen == len(pictures)


def test_the_surroundings_are_grey() -> None:
    mask = Image.new("L", (4, 4), 0)
    mask.putpixel((1, 1), 255)
    picture = without_surroundings(Image.new("RGB", (4, 4), (255, 0, 0)), mask)
    assert picture.getpixel((1, 1)) == (255, 0, 0) and picture.getpixel((0, 0)) == (127, 127, 127)


def test_encoders_of_the_hub_kind_are_read_from_folders(tmp_path: Path) -> None:
    """The encoder is a tiny random DINOv2 in the layout of a hub folder."""
    config = Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
    Dinov2Model(config).save_pretrained(tmp_path)
    BitImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}).save_pretrained(tmp_path)
    vectors = DinoEncoder(str(tmp_path)).embed(drawings("heart", "red", "white"))
    assert vectors.shape == (4, 16) and mean_paired_similarity(vectors, vectors) == pytest.approx(1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="evaluation_dino: cannot load the folder .*evaluate: false"):
        DinoEncoder(str(tmp_path / "empty"))


def test_prompts_in_plain_words() -> None:
    words = {"TOK": "dog", "TOK2": None}
    assert plain_words("a photo of TOK on grass", "object", words) == "a photo of a dog on grass"
    assert plain_words("the TOK dog, a TOK2", "object", words) == "the dog, an object"
    assert plain_words("a house in the style of TOK", "style", {"TOK": None}) == "a house in the style of a painting"
    prompts = prompt_set("mini-sdxl", "object", {"TOK": "figure"})
    assert len(prompts.concept) == len(prompts.plain) == 4 and not any("TOK" in text for text in prompts.plain)


def test_the_prompts_of_one_concept_of_several() -> None:
    """Prompts with the word of another concept are not unrelated, and the base model gets no trigger word."""
    config = build_config(
        {
            "concepts": [{"trigger_word": "TOK", "class_word": "cat"}, {"trigger_word": "moon"}],
            "evaluate": "true",
            "evaluation_prompts": ["a {trigger} near the moon"],
        }
    )
    for own, plain in (("TOK", "a cat near the object"), ("moon", "an object near the object")):
        word = {own: config.class_words[own]}
        found = evaluation_prompts(config.validation, config.preparation, "other", class_words=word)
        assert found.concept == (f"a {own} near the moon",) and found.plain == (plain,)
        assert len(found.unrelated) == 5 and "an astronaut on the moon" not in found.unrelated


def test_a_trigger_word_in_every_unrelated_prompt_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"unrelated_prompts: each default one contains .*\(photo\); give others"):
        prompt_set("mini-sdxl", "object", {"photo": None})
    assert prompt_set("mini-sdxl", "object", {"photo": None}, unrelated=["a sea"]).unrelated == ("a sea",)


def test_the_rule_of_the_choice() -> None:
    base = scores(0.1, margin=0.2, kept=1.0)
    assert relate(base, base, 0.7).fidelity == 0
    whole = relate(scores(0.7, margin=0.3, kept=1.0), base, 0.7)
    assert whole == Relative(1, 1, 1, 1)
    assert relate(scores(0.7, margin=0.3, kept=1.0, copied=1.0), base, 0.7).quality == pytest.approx(0.5)
    assert relate(scores(0.7, margin=0.0), base, 0.7).quality == 0  # other measures cannot make up for a 0
    early, late, weak = candidate(10, 0.7), candidate(20, 0.705), candidate(10, 0.7, scale=0.8)
    assert choose([late, weak, early]) == early == choose([early, weak, late])
    below, above = candidate(20, 0.7, scale=0.9), candidate(10, 0.7, scale=1.1)  # as near to 1 as each other
    assert choose([below, above]) == above
    with pytest.raises(ValueError, match="no candidate"):
        choose([])


@pytest.mark.parametrize(
    ("line", "learning", "length"),
    [
        ([(10, 0.05, 0.9, 0.99)], "not learned", "too short"),
        ([(10, 0.1, 0.9, 0.99), (20, 0.3, 0.9, 0.98)], "partly learned", "too short"),
        ([(10, 0.5, 0.9, 0.99), (20, 0.7, 0.9, 0.98)], "learned", "right"),
        ([(10, 0.7, 0.9, 0.95), (20, 0.8, 0.68, 0.9)], "learned", "slightly overfit"),
        ([(10, 0.7, 0.9, 0.95), (20, 0.8, 0.4, 0.5)], "learned", "overfit"),
        ([(20, 0.8, 0.3, 0.4)], "learned", "overfit"),
        ([(25, 0.02, 0.9, 0.99), (50, 0.07, 0.9, 0.98), (75, 0.03, 0.9, 0.98)], "not learned", "too short"),
        ([(50, 0.07, 0.9, 0.98), (100, 0.0, 0.9, 0.98)], "not learned", "too short"),
        ([(50, 0.05, 0.4, 0.3)], "not learned", "too short"),
    ],
)
def test_verdicts(line: list[tuple[int, float, float, float]], learning: str, length: str) -> None:
    candidates = [candidate(*figures) for figures in line]
    verdict = give_verdict(candidates, choose(candidates), 1.0)
    assert (verdict.learning, verdict.length) == (learning, length)
    assert verdict.headline.endswith("Use scale 1.") and verdict.reasons


def test_a_difference_within_the_samples_noise_is_no_overfitting() -> None:
    line = [candidate(10, 0.8), candidate(20, 0.8, following=0.7)]
    assert give_verdict(line, line[0], 1.0).length == "slightly overfit"
    noisy = [replace(one, relative=replace(one.relative, error=0.1)) for one in line]
    assert give_verdict(noisy, noisy[0], 1.0).length == "right"


def test_the_error_of_the_quality_is_that_of_its_samples() -> None:
    """Compared with a bootstrap of the quality."""
    generator = torch.Generator().manual_seed(0)
    likeness = 0.5 + 0.1 * torch.randn(16, generator=generator)
    base = scores(0.1, margin=0.2, kept=1.0)
    measured = replace(scores(float(likeness.mean()), margin=0.2, kept=1.0), identity_error=float(likeness.std() / 4))
    draws = likeness[torch.randint(16, (4000, 16), generator=generator)].mean(dim=1)
    qualities = [relate(scores(float(draw), margin=0.2, kept=1.0), base, 0.9).quality for draw in draws]
    assert relate(measured, base, 0.9).error == pytest.approx(float(torch.tensor(qualities).std()), rel=0.15)


def test_checkpoints_are_thinned_evenly_with_the_last() -> None:
    assert thin([10, 20, 30], 4) == [10, 20, 30]
    assert thin(list(range(10, 110, 10)), 4) == [30, 50, 80, 100]
    assert thin([5, 10], 1) == [10]
