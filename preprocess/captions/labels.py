"""Assigns caption, concept and trigger word to every image."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from preprocess.captions.concepts import find_concept
from preprocess.captions.pairing import Caption
from preprocess.captions.placeholders import fill_places
from preprocess.captions.trigger import (
    class_template,
    has_trigger,
    template,
    through_trigger,
    with_affixes,
    with_trigger,
    with_trigger_in_front,
)
from preprocess.captions.wildcards import MOST_NESTED, expanded, has_wildcard, nesting
from preprocess.errors import DatasetError
from preprocess.name_lists import first_names
from settings.concepts import ConceptConfig
from settings.preparation import DataConfig

TokenCounter = Callable[[str], int]
"""Counts the tokens of a caption, including start and end of text, by the base's tokenizer that needs the most."""
MAX_TOKENS = 77
MIRRORED_WRITING = ("text", "letters", "logo", "sign", "writing", "words")


@dataclass(frozen=True)
class Label:
    """The labels of an image. `concept`: its trigger word ("": none), None in the preservation set.

    `others`: further captions. One of all captions is drawn at random each time.
    """

    caption: str
    source: str
    concept: str | None
    repeats: int
    warnings: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    @property
    def captions(self) -> tuple[str, ...]:
        """All captions, beginning with `caption`."""
        return (self.caption, *self.others)


def label(
    name: str,
    own: Caption | None,
    generated: Caption | None,
    repeats: int,
    config: DataConfig,
    count: TokenCounter | None = None,
    most: int = MAX_TOKENS,
) -> Label:
    """Label an image of the concepts. Raises DatasetError when it belongs to none of them.

    With `count`, a trigger beyond `most` tokens is moved to the front.
    """
    caption = own or generated
    concept = find_concept(name, caption.text if caption else "", config.all_concepts)
    if caption is None:
        trigger = concept.trigger_word
        text = template(config.concept_mode, trigger, concept.class_word) if trigger else ""
        caption = Caption(text, "template")
    found = _alternatives(name, caption, concept.trigger_word, concept.class_word)
    trained = [_with_trigger(text, concept, config, count, most) for text in found]
    warnings = [
        warning
        for text, whole in zip(found, trained, strict=True)
        if own
        for warning in _trigger_warning(name, own.source, _with_affixes(text, config), concept, whole)
    ]
    first, *others = dict.fromkeys(trained)
    times = repeats * concept.repeats
    return Label(first, caption.source, concept.trigger_word, times, tuple(warnings), tuple(others))


def _alternatives(name: str, caption: Caption, trigger_word: str | None, class_word: str | None) -> list[str]:
    """Return all variants of the captions: alternatives expanded, placeholders filled in. Raises DatasetError."""
    for text in caption.texts:
        if has_wildcard(text) and (depth := nesting(text)) > MOST_NESTED:
            raise DatasetError(
                f"{name}: its caption has alternatives inside {depth} braces; at most {MOST_NESTED} are supported. "
                "Remove some."
            )
    texts = [made for text in caption.texts for made in (expanded(text) if has_wildcard(text) else (text,))]
    return list(dict.fromkeys(fill_places(text, trigger_word, class_word) for text in texts)) or [""]


def _with_trigger(text: str, concept: ConceptConfig, config: DataConfig, count: TokenCounter | None, most: int) -> str:
    trigger = concept.trigger_word
    if not trigger:  # captions stay unchanged
        return _with_affixes(text, config)
    whole = _with_affixes(text, config)
    if not has_trigger(whole, trigger):
        whole = _with_affixes(with_trigger(text, trigger, concept.class_word, config.concept_mode), config)
    if count and not has_trigger(text, trigger) and _is_behind(whole, trigger, count, most):
        whole = _with_affixes(with_trigger_in_front(text, trigger, config.concept_mode), config)
    return whole


def _with_affixes(text: str, config: DataConfig) -> str:
    return with_affixes(text, config.caption_prefix, config.caption_suffix)


def preservation_label(
    name: str, own: Caption | None, generated: Caption | None, repeats: int, config: DataConfig
) -> Label:
    """Label a preservation image, with a warning when its caption contains a trigger. Raises DatasetError."""
    class_word = next((concept.class_word for concept in config.all_concepts if concept.class_word), None)
    caption = own or generated or Caption(class_template(config.concept_mode, class_word), "template")
    first, *others = _alternatives(name, caption, class_word, class_word)
    warnings = tuple(
        f"{name}: the caption of this preservation image contains the trigger word {concept.trigger_word}, so that the "
        "image is trained as the concept; remove the word"
        for concept in config.all_concepts
        if any(has_trigger(text, concept.trigger_word) for text in (first, *others))
    )
    return Label(first, caption.source, None, repeats, warnings, tuple(others))


def check_length(name: str, labelled: Label, count: TokenCounter, most: int = MAX_TOKENS) -> Label:
    """Return the label, with a warning when its longest caption exceeds the token limit."""
    longest = max(labelled.captions, key=count)
    tokens = count(longest)
    if tokens <= most:
        return labelled
    lost = "the end is not trained"
    if labelled.concept and _is_behind(longest, labelled.concept, count, most):
        lost = f"the end, with its trigger word {labelled.concept}, is not trained"
    too_long = f"{name}: its caption has {tokens} tokens, and the text encoders read {most}; {lost}. Shorten it."
    return replace(labelled, warnings=(*labelled.warnings, too_long))


def several_warning(labels: Sequence[tuple[str, Label]]) -> Iterator[str]:
    """Warn of images with several captions. `labels`: pairs of file name and label."""
    names = [name for name, labelled in labels if labelled.others]
    if names:
        yield (
            f"{len(names)} of {len(labels)} images have several captions (lines of a text file, a list, or {{a|b}}): "
            f"one of them is drawn at random each time: {first_names(names)}"
        )


def flip_warnings(captions: Mapping[str, str], config: DataConfig) -> Iterator[str]:
    """Warn about images that should not be mirrored. `captions` by file name."""
    if not config.horizontal_flip:
        return
    if config.concept_mode == "face":
        yield "horizontal_flip: faces are not symmetric, so the likeness suffers; set horizontal_flip: false for faces"
    for name, caption in captions.items():
        if word := next((word for word in MIRRORED_WRITING if has_trigger(caption.lower(), word)), None):
            yield f"{name}: horizontal_flip mirrors its {word!r} (by its caption), and mirrored text is unreadable"


def template_warning(labels: Sequence[tuple[str, Label]]) -> Iterator[str]:
    """Warn of images without captions, one line per template. `labels`: pairs of file name and label."""
    templated: dict[str, list[str]] = {}
    for name, labelled in labels:
        if labelled.source == "template":
            templated.setdefault(labelled.caption, []).append(name)
    for caption, names in templated.items():
        how = f"as {caption!r}" if caption else "with the empty caption"
        yield f"{len(names)} of {len(labels)} images have no caption and are trained {how}: {first_names(names)}"


def _is_behind(text: str, trigger_word: str, count: TokenCounter, most: int) -> bool:
    """Whether the trigger is beyond the token limit."""
    return count(through_trigger(text, trigger_word)) > most


def _trigger_warning(name: str, source: str, text: str, concept: ConceptConfig, trained: str) -> tuple[str, ...]:
    if not concept.trigger_word or has_trigger(text, concept.trigger_word):
        return ()
    return (f"{name}: its caption from {source} lacks the trigger word {concept.trigger_word}; trained as {trained!r}",)
