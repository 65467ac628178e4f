"""Samples every LoRA of a protocol and scores it."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from artifact.artifact import Artifact
from evaluation.checkpoints import DEFAULT_CLIP, DEFAULT_DINO
from evaluation.choice import Relative, relate
from evaluation.comparison.protocol import Protocol, Subject, picture_files, reference_picture
from evaluation.drawing import DrawingPlan, Samples, draw_samples
from evaluation.embedding_cache import CachedEncoder
from evaluation.encoders import EMBEDDED_EVALUATOR, ClipEncoder, DinoEncoder
from evaluation.prompt_sets import prompt_set
from evaluation.scores import Encoders, Judge, Scores
from evaluation.subject_pictures import References
from families.family import ModelFamily
from families.loading.sources import EMBEDDED_BASES
from sampler.prompts.plain_words import words_in
from sampler.sampler import Sampler
from settings.record import ConfigError


@dataclass(frozen=True)
class Row:
    """A LoRA at one scale; `lora` is None for the base. `pictures`: the first sample of each prompt."""

    subject: str
    lora: str | None
    scale: float | None
    scores: Scores
    relative: Relative | None
    pictures: list[Image.Image]

    def to_json(self) -> dict[str, Any]:
        """Return all fields except the pictures."""
        relative = asdict(self.relative) if self.relative else None
        head = {"subject": self.subject, "lora": self.lora, "scale": self.scale}
        return {**head, "scores": asdict(self.scores), "relative": relative}


def load_encoders(protocol: Protocol, device: torch.device) -> Encoders:
    """Load the encoders of the protocol. Raises ConfigError."""
    embedded = protocol.base_model in EMBEDDED_BASES
    clip = ClipEncoder(protocol.clip or (EMBEDDED_EVALUATOR if embedded else DEFAULT_CLIP), device)
    name = protocol.dino or ("none" if embedded else DEFAULT_DINO)
    dino = None if name == "none" else CachedEncoder(DinoEncoder(name, device))
    return Encoders(clip, CachedEncoder(clip), dino)


def require_unrelated(protocol: Protocol) -> None:
    """Raises ConfigError for unrelated prompts with a trigger word, before the base is loaded."""
    for subject in protocol.subjects:
        _unrelated(protocol, subject)


def compare(protocol: Protocol, family: ModelFamily, encoders: Encoders) -> Iterator[Row]:
    """Yield the row of the base for each subject, then one for each LoRA and scale. The base has no adapters
    afterwards. Raises ConfigError if a subject has no unrelated prompts."""
    sampler = Sampler(family)
    for subject in protocol.subjects:
        unrelated = _unrelated(protocol, subject)
        plan = _plan(protocol, subject, _trigger(subject), unrelated, family.native_resolution)
        base = draw_samples(sampler, plan, plain=True)
        judge = Judge(encoders, plan, _references(subject, base), base)
        yield Row(subject.name, None, None, judge.base, None, _first(base))
        for name, file in subject.loras.items():
            yield from _rows_of(protocol, subject, unrelated, name, file, sampler, judge)


def _rows_of(
    protocol: Protocol,
    subject: Subject,
    unrelated: Sequence[str],
    name: str,
    file: Path,
    sampler: Sampler,
    judge: Judge,
) -> Iterator[Row]:
    artifact = Artifact.read(file)
    plan = _plan(protocol, subject, _trigger(subject, artifact), unrelated, sampler.family.native_resolution)
    for scale in protocol.scales:
        sampler.load(artifact, scale)
        try:
            samples = draw_samples(sampler, plan)
        finally:
            sampler.unload()
        scores = judge.score(samples)
        relative = relate(scores, judge.base, judge.training_pictures) if subject.pictures else None
        yield Row(subject.name, name, scale, scores, relative, _first(samples))


def _trigger(subject: Subject, artifact: Artifact | None = None) -> str:
    """Return the word for the subject in prompts: that of the protocol or the LoRA, otherwise the class word."""
    own = None if artifact is None else next(iter(artifact.triggers), None)
    return subject.trigger or own or subject.class_word


def _unrelated(protocol: Protocol, subject: Subject) -> tuple[str, ...]:
    """Return the unrelated prompts of a subject, the same for the base and each of its LoRAs, since the images are
    compared in pairs: the defaults without the subject's word in any of its rows. Raises ConfigError for a given prompt
    with a trigger word, and as `prompt_set`."""
    artifacts = [Artifact.read(file) for file in subject.loras.values()]
    own = [trigger for artifact in artifacts for trigger in artifact.triggers]
    triggers = [*own, *([subject.trigger] if subject.trigger else [])]
    for prompt in protocol.unrelated_prompts:
        if found := words_in(prompt, triggers):
            raise ConfigError(
                f"unrelated_prompts: {prompt!r} contains the trigger word {found[0]} of the subject {subject.name}, "
                "whose images change; remove it"
            )
    in_rows = (_trigger(subject), *(_trigger(subject, artifact) for artifact in artifacts))
    words = dict.fromkeys((*in_rows, *own), subject.class_word)
    return prompt_set(protocol.base_model, "object", words, protocol.prompts, protocol.unrelated_prompts).unrelated


def _plan(protocol: Protocol, subject: Subject, trigger: str, unrelated: Sequence[str], native: int) -> DrawingPlan:
    """Return the plan for samples with `trigger`. The plain prompts contain the class word."""
    side = protocol.side or native
    words = {trigger: subject.class_word}
    prompts = prompt_set(protocol.base_model, "object", words, protocol.prompts, unrelated)
    return DrawingPlan(
        prompts,
        protocol.samples_per_prompt,
        side,
        side,
        protocol.num_inference_steps,
        protocol.guidance_scale,
        protocol.seed,
    )


def _references(subject: Subject, base: Samples) -> References:
    """Return the reference images. Without images of the subject, the base's samples are the reference, so that the
    scores measure the distance from the base."""
    if subject.pictures is None:
        return References(base.concept_pictures, [])
    return References([reference_picture(path) for path in picture_files(subject.pictures)], [])


def _first(samples: Samples) -> list[Image.Image]:
    return [pictures[0] for pictures in samples.concept]
