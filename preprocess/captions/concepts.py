"""Assigns images to concepts, and balances how often each concept is seen."""

from collections import Counter
from collections.abc import Mapping, Sequence

from preprocess.captions.trigger import triggers_in
from preprocess.errors import DatasetError
from preprocess.uploads.text_files import name_key
from settings.concepts import ConceptConfig


def find_concept(name: str, caption: str, concepts: Sequence[ConceptConfig]) -> ConceptConfig:
    """The concept whose folder holds the image, else the first whose trigger stands in its caption.

    With a single concept without a folder, that one. Raises DatasetError when none claims the image.
    """
    inside = [concept for concept in concepts if concept.folder and _lies_in(name, concept.folder)]
    if inside:
        return max(inside, key=lambda concept: len(concept.folder or ""))
    named = triggers_in(caption, [concept.trigger_word for concept in concepts])
    if named:
        return next(concept for concept in concepts if concept.trigger_word in named)
    if len(concepts) == 1 and not concepts[0].folder:
        return concepts[0]
    folders = ", ".join(concept.folder or f"(caption with {concept.trigger_word})" for concept in concepts)
    raise DatasetError(f"{name}: belongs to no concept; put it into one of {folders}, or name a trigger in its caption")


def require_images(concepts: Sequence[ConceptConfig], images: Mapping[str, int]) -> None:
    """Raises DatasetError for a concept without images. `images`: how many by trigger word."""
    for concept in concepts:
        if not images.get(concept.trigger_word):
            where = f"in the folder {concept.folder!r}" if concept.folder else "with that word in their captions"
            raise DatasetError(f"concept {concept.trigger_word}: no images {where}. Is the name right?")


def balancing_repeats(seen: Mapping[str | None, int]) -> dict[str | None, int]:
    """Factors that bring each group near the largest. `seen`: images times repeats, by trigger word.

    None stands for the preservation set, which is meant to be seen as often as all concepts together, as in DreamBooth
    (Ruiz et al. 2023, §3.2).
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
    """Sum of repeats by concept."""
    counter: Counter[str | None] = Counter()
    for concept, times in repeats:
        counter[concept] += times
    return counter


def _lies_in(name: str, folder: str) -> bool:
    parts, wanted = name_key(name).split("/")[:-1], name_key(folder).split("/")
    return any(parts[start : start + len(wanted)] == wanted for start in range(len(parts)))
