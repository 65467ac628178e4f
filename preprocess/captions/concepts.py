"""Assigns images to concepts, and balances how often each concept is seen."""

from collections import Counter
from collections.abc import Mapping, Sequence

from preprocess.captions.trigger import triggers_in
from preprocess.errors import DatasetError
from preprocess.uploads.text_files import name_key
from settings.concepts import ConceptConfig


def find_concept(name: str, caption: str, concepts: Sequence[ConceptConfig]) -> ConceptConfig:
    """Return the concept whose folder contains the image, otherwise the first whose trigger occurs in its caption.

    Otherwise the concept without folder and trigger word, or a single concept without a folder. Raises DatasetError
    if no concept matches.
    """
    inside = [concept for concept in concepts if concept.folder and _lies_in(name, concept.folder)]
    if inside:
        return max(inside, key=lambda concept: len(concept.folder or ""))
    named = triggers_in(caption, [concept.trigger_word for concept in concepts])
    if named:
        return next(concept for concept in concepts if concept.trigger_word in named)
    for concept in concepts:
        if not concept.folder and (len(concepts) == 1 or not concept.trigger_word):
            return concept
    folders = ", ".join(concept.folder or f"(caption with {concept.trigger_word})" for concept in concepts)
    raise DatasetError(f"{name}: belongs to no concept; move it to one of {folders}, or add a trigger to its caption")


def require_images(concepts: Sequence[ConceptConfig], images: Sequence[tuple[str, str | None]]) -> None:
    """Raises DatasetError for a concept without images. `images`: file names with their concepts' trigger words."""
    for concept in concepts:
        if not any(_teaches(image, concept, concepts) for image in images):
            where = f"in the folder {concept.folder!r}" if concept.folder else "with that word in their captions"
            if not (concept.trigger_word or concept.folder):
                where = "outside the folders of the other concepts"
            raise DatasetError(f"concept {concept_name(concept.trigger_word)}: no images {where}. Check the name.")


def concept_name(concept: str | None) -> str:
    """Return the name of a concept in messages, by its trigger word; None is the preservation set."""
    return "preservation" if concept is None else concept or "without a trigger word"


def balancing_repeats(seen: Mapping[str | None, int]) -> dict[str | None, int]:
    """Return factors for repeats that bring each group near the largest. `seen`: images times repeats, by trigger word.

    None stands for the preservation set, which is seen as often as all concepts together, as in DreamBooth (Ruiz et al.
    2023, §3.2).
    """
    concepts = {name: count for name, count in seen.items() if name is not None}
    largest = max(concepts.values(), default=0)
    factors: dict[str | None, int] = {name: max(1, round(largest / count)) for name, count in concepts.items()}
    if seen.get(None):
        together = sum(count * factors[name] for name, count in concepts.items())
        ratio = together / seen[None]
        factors[None] = max(1, round(ratio))
        if ratio < 1:
            raised = max(1, round(1 / ratio))
            factors |= {name: factor * raised for name, factor in factors.items() if name is not None}
    return factors


def count_seen(repeats: Sequence[tuple[str | None, int]]) -> Counter[str | None]:
    """Sum repeats by concept."""
    counter: Counter[str | None] = Counter()
    for concept, times in repeats:
        counter[concept] += times
    return counter


def _teaches(image: tuple[str, str | None], concept: ConceptConfig, concepts: Sequence[ConceptConfig]) -> bool:
    """Whether the image belongs to the concept. Concepts without a trigger word differ only in their folders."""
    name, trigger = image
    return trigger == concept.trigger_word and (bool(trigger) or find_concept(name, "", concepts) is concept)


def _lies_in(name: str, folder: str) -> bool:
    parts, wanted = name_key(name).split("/")[:-1], name_key(folder).split("/")
    return any(parts[start : start + len(wanted)] == wanted for start in range(len(parts)))
