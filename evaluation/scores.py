"""Scores of the samples of one candidate, absolute and relative to the base."""

from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from evaluation.drawing import DrawingPlan, Samples
from evaluation.embedding_cache import CachedEncoder
from evaluation.encoders import ClipEncoder
from evaluation.faces import FaceEncoder, face_identity
from evaluation.similarity import (
    distinct,
    mean_paired_similarity,
    mean_self_similarity,
    mean_similarity,
    nearest_other_similarity,
    nearest_similarity,
    similarity_error,
    text_margin,
)
from evaluation.subject_pictures import References
from settings.public import public_name

COPY_SIMILARITY = 0.95
"""Smallest cosine between a sample and a training image that counts as a copy, since the prompts differ. If training
images are more similar to each other, their highest mutual cosine is the threshold."""


@dataclass(frozen=True)
class Scores:
    """Scores of the concept's samples: mean cosines, -1 to 1, unless stated otherwise.

    `clip_i`, `dino_i`: to the training images (`masked_…`: to those with the background masked). `clip_t`: to their
    prompts in plain words. `text_margin`: difference between the cosine to their own and to the other prompts.
    `diversity`: 1 - cosine between the samples of a prompt. `nearest`: to the nearest training image. `copied`: share
    of samples that are copies. `prior_kept`: samples of unrelated prompts, to the base's samples with the same seeds.
    `face`: of the faces, if a face network is configured. `identity_error`: standard error of `identity` over the
    samples.
    """

    clip_i: float
    clip_t: float
    text_margin: float
    diversity: float
    nearest: float
    copied: float
    prior_kept: float
    dino_i: float | None = None
    masked_clip_i: float | None = None
    masked_dino_i: float | None = None
    face: float | None = None
    identity_error: float = 0.0

    @property
    def identity(self) -> float:
        """The likeness for the choice: DINOv2's if it is available, otherwise CLIP's."""
        return self.clip_i if self.dino_i is None else self.dino_i


@dataclass(frozen=True)
class Encoders:
    """The encoders of an evaluation. `dino` is None without DINOv2, as with the embedded evaluator."""

    clip: ClipEncoder
    clip_images: CachedEncoder
    dino: CachedEncoder | None
    faces: FaceEncoder | None = None

    @property
    def identity(self) -> CachedEncoder:
        """The encoder of `Scores.identity`."""
        return self.dino or self.clip_images

    def save(self) -> None:
        """Save the embeddings for the next run."""
        for encoder in filter(None, (self.clip_images, self.dino)):
            encoder.save()


class Judge:
    """Scores samples by training images, prompts, and the base's samples."""

    def __init__(self, encoders: Encoders, plan: DrawingPlan, references: References, base: Samples) -> None:
        """`base`: the base's samples of the plain prompts."""
        self._encoders, self._plan, self._references = encoders, plan, references
        self._faces: Tensor | None = None
        self._texts = encoders.clip.embed_texts(
            [prompt for prompt in plan.prompts.plain for _ in range(plan.samples_per_prompt)]
        )
        self._base_unrelated = encoders.identity.embed(base.unrelated)
        training = distinct(encoders.identity.embed(references.pictures))  # an image is no copy of itself
        among_themselves = nearest_other_similarity(training)
        self._copy_bar = max(COPY_SIMILARITY, float(among_themselves.max()) if len(among_themselves) else 0.0)
        self.training_pictures = mean_self_similarity(training)
        """Mean cosine of the training images to each other, the highest useful likeness of samples."""
        self.base = self.score(base)

    @property
    def measured_by(self) -> str:
        """A sentence about the encoders and the number of samples."""
        names = [public_name(encoder.name) for encoder in (self._encoders.clip_images, self._encoders.dino) if encoder]
        prompts, each = len(self._plan.prompts.concept), self._plan.samples_per_prompt
        return (
            f"By {' and '.join(names)}, on {prompts * each} samples of {prompts} prompts and "
            f"{len(self._plan.prompts.unrelated)} of unrelated ones, the same seeds for each."
        )

    def score(self, samples: Samples) -> Scores:
        """Compute all scores of one candidate's samples."""
        encoders, pictures = self._encoders, samples.concept_pictures
        clip = encoders.clip_images.embed(pictures)
        identity = encoders.identity.embed(pictures)
        nearest = nearest_similarity(identity, encoders.identity.embed(self._references.pictures))
        unrelated = encoders.identity.embed(samples.unrelated)
        return Scores(
            clip_i=mean_similarity(clip, encoders.clip_images.embed(self._references.pictures)),
            clip_t=mean_paired_similarity(clip, self._texts),
            text_margin=text_margin(clip, self._texts),
            diversity=self._diversity(identity),
            nearest=float(nearest.mean()),
            copied=float((nearest > self._copy_bar).float().mean()),
            prior_kept=mean_paired_similarity(unrelated, self._base_unrelated),
            dino_i=self._likeness(encoders.dino, pictures, self._references.pictures),
            masked_clip_i=self._likeness(encoders.clip_images, pictures, self._references.masked),
            masked_dino_i=self._likeness(encoders.dino, pictures, self._references.masked),
            face=self._face(pictures),
            identity_error=similarity_error(identity, encoders.identity.embed(self._references.pictures)),
        )

    def identity(self, samples: Samples) -> float:
        """Return only the likeness to the training images, for the ablation of the trigger word."""
        encoder = self._encoders.identity
        return mean_similarity(encoder.embed(samples.concept_pictures), encoder.embed(self._references.pictures))

    def _diversity(self, vectors: Tensor) -> float:
        count = self._plan.samples_per_prompt
        similarities = [mean_self_similarity(group) for group in vectors.split(count)]
        return 1 - sum(similarities) / len(similarities)

    def _face(self, pictures: list[Image.Image]) -> float | None:
        faces = self._encoders.faces
        if faces is None:
            return None
        if self._faces is None:
            self._faces = faces.embed_faces(self._references.pictures)
        return face_identity(faces.embed_faces(pictures), self._faces, len(pictures))

    @staticmethod
    def _likeness(
        encoder: CachedEncoder | None, pictures: list[Image.Image], references: list[Image.Image]
    ) -> float | None:
        if encoder is None or not references:
            return None
        return mean_similarity(encoder.embed(pictures), encoder.embed(references))
