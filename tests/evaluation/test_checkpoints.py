"""Tests of the samples that the evaluation of checkpoints generates with each LoRA: there are none that it does not
use."""

import random
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

import evaluation.checkpoints
from evaluation.checkpoints import evaluate_checkpoints
from evaluation.embedding_cache import CachedEncoder
from evaluation.encoders import ClipEncoder
from evaluation.scores import Encoders
from evaluation.subject_pictures import References
from sampler.sampler import SampleRequest
from settings.training import build_config
from tools.mini_base.scenes import draw, training_scene

CONFIG = build_config(
    {"base_model": "mini-sdxl", "trigger_word": "TOK", "class_word": "robot", "evaluate": "true",
     "evaluation_samples": 1, "evaluation_scales": [0.5, 1.0],
     "evaluation_prompts": ["a {trigger}", "a {trigger} at night"],
     "unrelated_prompts": ["a star", "a moon", "a square"]}
)  # fmt: skip


def pictures(count: int) -> list[Image.Image]:
    rng = random.Random(0)
    return [draw(training_scene(rng), rng) for _ in range(count)]


class Recorder:
    """A sampler that records the prompts of its samples, with the LoRA and its scale."""

    def __init__(self, family: Any) -> None:
        self.at: tuple[str, float] | None = None
        self.drawn: list[tuple[tuple[str, float] | None, list[str]]] = []

    def load(self, artifact: str, scale: float) -> None:
        self.at = (artifact, scale)

    def unload(self) -> None:
        self.at = None

    def generate_several(self, requests: Sequence[SampleRequest], triggers: None) -> list[list[Image.Image]]:
        self.drawn.append((self.at, [request.prompt for request in requests]))
        return [pictures(request.num_outputs) for request in requests]


def test_unrelated_prompts_are_drawn_once_for_the_base_and_each_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = Recorder(None)
    monkeypatch.setattr(evaluation.checkpoints, "Sampler", lambda family: sampler)
    monkeypatch.setattr(evaluation.checkpoints, "Artifact", SimpleNamespace(read=lambda file: file.name))
    monkeypatch.setattr(evaluation.checkpoints, "references", lambda dataset, concept: References(pictures(3), []))
    encoder = ClipEncoder()
    dataset, family = SimpleNamespace(examples=()), SimpleNamespace(native_resolution=64)
    stages = evaluate_checkpoints(CONFIG, CONFIG, "mini-sdxl", family, dataset, {100: Path("last")},  # type: ignore[arg-type]
                                  Encoders(encoder, CachedEncoder(encoder), None))  # fmt: skip
    told = []
    while True:
        try:
            told.append(next(stages)[1:])
        except StopIteration as end:
            found = end.value
            break
    concept, plain = ["a TOK", "a TOK at night"], ["a robot", "a robot at night"]
    unrelated = ["a star", "a moon", "a square"]
    *candidates, without = sampler.drawn
    assert candidates == [
        (None, plain + unrelated), (("last", 0.5), concept + unrelated), (("last", 1.0), concept + unrelated),
    ]  # fmt: skip
    assert without == (("last", found.chosen.scale), plain)
    assert told == [(5, 15), (10, 15), (15, 15)]
    assert found.ablation is not None and found.ablation[0] == found.chosen.scores.identity
