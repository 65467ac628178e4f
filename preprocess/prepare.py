"""Prepares a dataset from uploads: the stages of data preparation in order."""

import tempfile
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from preprocess.captions.concepts import balancing_repeats, concept_name, count_seen, require_images
from preprocess.captions.foreign_syntax import syntax_warnings
from preprocess.captions.generated import caption_missing
from preprocess.captions.labels import (
    MAX_TOKENS,
    Label,
    TokenCounter,
    check_length,
    flip_warnings,
    label,
    preservation_label,
    several_warning,
    template_warning,
)
from preprocess.captions.pairing import Caption, CaptionFinder
from preprocess.crops.buckets import DEFAULT_RESOLUTION, BucketRules, at_resolutions
from preprocess.crops.crop import Size
from preprocess.crops.views import Renderer, RenderJob
from preprocess.dataset import Example, PreparedDataset, Rejected
from preprocess.errors import DatasetError
from preprocess.faces.people import FacesOfPicture, find_people, recognition_model
from preprocess.progress import StageProgress
from preprocess.sources.weights import count_by_source, share_factors, share_lines
from preprocess.training_sets import TrainingSets, separate
from preprocess.uploads.collect import collect, decode_rules
from preprocess.uploads.decoding import IMAGE_SUFFIXES
from preprocess.uploads.folder_concepts import folder_warning
from preprocess.uploads.folder_rules import folder_repeats, whole_repeats_scale
from preprocess.uploads.intake import FoundFile, source_labels
from preprocess.uploads.survey import Surveyed
from preprocess.workers.relay import drain
from preprocess.workers.workers import SINGLE_PROCESS, Workers
from settings.data.sizes import read_ratio
from settings.preparation import DataConfig

BUCKETS_PER_RESOLUTION = 16
MOST_AUGMENTED = 100_000
"""Largest number of written images with augmented views."""


@dataclass(frozen=True)
class BaseRequirements:
    """The base model's requirements: sides in multiples of `size_multiple` pixels and at most of `largest_side`,
    captions of at most `most_tokens`."""

    size_multiple: int = 8
    count_tokens: TokenCounter | None = None
    most_tokens: int = MAX_TOKENS
    largest_side: int | None = None


Stages = Generator[StageProgress, None, PreparedDataset]


def prepare(
    sources: Sequence[str | Path], config: DataConfig, output: Path, base: BaseRequirements | None = None
) -> PreparedDataset:
    """Turn `sources` (zips, tars, folders, URLs) into a dataset in the folder `output`.

    Raises DatasetError when no image is left to train on. The dataset's files with all decisions are written even then.
    """
    return drain(preparing(sources, config, output, base), lambda _: None)


def preparing(
    sources: Sequence[str | Path],
    config: DataConfig,
    output: Path,
    base: BaseRequirements | None = None,
    workers: Workers = SINGLE_PROCESS,
) -> Stages:
    """As `prepare`, as a generator that yields progress and returns the dataset. `workers`: the processes that take
    part."""
    base = base or BaseRequirements()
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unpacked-", dir=output if workers.shared_folder else None) as scratch:
        sources = [*sources, *(name for name in config.named_sources if name not in map(str, sources))]
        concept = yield from collect(sources, config, output, Path(scratch) / "data", workers, "")
        prior = None
        if config.preservation_data is not None:
            folder = Path(scratch) / "preservation"
            prior = yield from collect([config.preservation_data], config, output, folder, workers, "preservation-")
            if not prior.kept:
                raise DatasetError(_nothing_left([config.preservation_data], prior.all_rejected()))
        sets = separate(concept, prior, config)
        dataset = yield from _build(sets, sources, config, output, base, workers)
    dataset.write()
    if not dataset.examples:
        raise DatasetError(_nothing_left(sources, dataset.rejected))
    return dataset


def bucket_rules(config: DataConfig, base: BaseRequirements) -> list[BucketRules]:
    """Return the bucket rules of this configuration on this base, one for each resolution, the smallest first."""
    return [_bucket_rules(side, config, base) for side in config.resolutions or (DEFAULT_RESOLUTION,)]


def _bucket_rules(resolution: int, config: DataConfig, base: BaseRequirements) -> BucketRules:
    multiples = max(1, round(resolution / BUCKETS_PER_RESOLUTION / base.size_multiple))
    step = config.bucket_step or multiples * base.size_multiple
    square = not config.aspect_ratio_bucketing
    aspects = tuple(map(read_ratio, config.aspect_ratios))
    return BucketRules(resolution, step, config.max_extra_crop, square, base.largest_side, aspects)


def _build(
    sets: TrainingSets,
    sources: Sequence[str | Path],
    config: DataConfig,
    output: Path,
    base: BaseRequirements,
    workers: Workers,
) -> Stages:
    """Label, choose bucket sizes, render. The renderer's models are loaded first, since they may be missing."""
    renderer = Renderer(config, output)
    labelled: Labelled = []
    scale = whole_repeats_scale(folder_repeats(item.file) for part in sets.parts for item in part.images)
    for part in sets.parts:
        labelled += yield from _label(part.images, part.captions, config, base, workers, part.preservation, scale)
    rejected = tuple(sets.rejected())
    if not sets.has_concept_images:
        return PreparedDataset(output, (), rejected, ())
    rules = bucket_rules(config, base)
    buckets = at_resolutions([renderer.expected_size(item.size) for item, _ in labelled], rules)
    labelled, balance = _balance(labelled, [len(chosen) for chosen in buckets], sources, config)
    people, unlike = yield from _people(labelled, renderer, config, workers)
    jobs = _jobs(labelled, buckets, people)
    _check_views(len(jobs), config)
    examples: list[Example] = []
    for example in renderer.render(jobs, workers):
        examples.append(example)
        yield StageProgress("cropping the images", len(examples), len(jobs))
    warnings = [*sets.warnings(), *unlike, *folder_warning(sets.concept_files, config), *_too_small(buckets, rules)]
    labels = [(item.file.name, given) for item, given in labelled]
    warnings += [*template_warning(labels), *several_warning(labels), *balance, *renderer.warnings]
    warnings += syntax_warnings([(name, caption) for name, given in labels for caption in given.captions])
    warnings += flip_warnings(
        {name: "; ".join(given.captions) for name, given in labels if given.concept is not None}, config
    )
    return PreparedDataset(output, tuple(examples), rejected, tuple(warnings))


def _jobs(
    labelled: "Labelled", buckets: Sequence[Sequence[tuple[int, Size]]], people: Mapping[str, FacesOfPicture]
) -> list[RenderJob]:
    """Return one job for each image and resolution. The first of an image has its warnings.

    `buckets`: the resolutions of each image and their buckets.
    """
    highest = max(resolution for chosen in buckets for resolution, _ in chosen)
    several = any(resolution != highest for chosen in buckets for resolution, _ in chosen)
    jobs: list[RenderJob] = []
    for picture, ((item, given), chosen) in enumerate(zip(labelled, buckets, strict=True)):
        for place, (resolution, bucket) in enumerate(chosen):
            # the preservation set has its own file names, which may be those of the concepts
            found = None if given.concept is None else people.get(item.file.name)
            job = RenderJob(item, given, bucket, len(jobs), found, resolution)
            jobs.append(replace(job, picture=picture, warned=place > 0) if several else job)
    return jobs


def _too_small(buckets: Sequence[Sequence[tuple[int, Size]]], rules: Sequence[BucketRules]) -> list[str]:
    """Return a warning for each of several resolutions at which images are left out. `buckets`: as for `_jobs`."""
    counted = {rule.resolution: sum(rule.resolution not in dict(chosen) for chosen in buckets) for rule in rules}
    return [
        f"resolution {side}: {count} of {len(buckets)} images are too small for it, and are only trained at lower ones"
        for side, count in counted.items()
        if count
    ]


def _people(
    labelled: "Labelled", renderer: Renderer, config: DataConfig, workers: Workers
) -> Generator[StageProgress, None, tuple[dict[str, FacesOfPicture], list[str]]]:
    """Return the faces of the concepts' images, and warnings, if a recognition model is set and faces are needed."""
    model = recognition_model(config)
    if model is None or not renderer.looks_for_faces:
        return {}, []
    concepts: dict[str, list[tuple[str, Path]]] = {}
    for item, given in labelled:
        if given.concept is not None:
            concepts.setdefault(given.concept, []).append((item.file.name, item.file.path))
    return (yield from find_people(concepts, config, model, decode_rules(config), workers))


def _check_views(images: int, config: DataConfig) -> None:
    """Limit the number of augmented views before any is written: each takes as much disk space as its image."""
    views = images * (1 + config.horizontal_flip + config.augmented_views)
    if config.augmented_views and views > MOST_AUGMENTED:
        raise DatasetError(
            f"augmented_views: {config.augmented_views} views of {images:,} images would be {views:,} files, more than "
            f"{MOST_AUGMENTED:,}. Lower augmented_views; with so many images it is hardly needed."
        )


Labelled = list[tuple[Surveyed, Label]]


def _label(
    images: Sequence[Surveyed],
    captions: CaptionFinder,
    config: DataConfig,
    base: BaseRequirements,
    workers: Workers,
    preservation: bool,
    scale: int,
) -> Generator[StageProgress, None, Labelled]:
    """`scale`: factor of all repeats that makes the repeats of folders whole numbers."""
    found = [captions.find(item.file) for item in images]
    missing = [item for item, (own, _) in zip(images, found, strict=True) if own is None]
    generated: dict[FoundFile, Caption] = {}
    for number, (file, caption) in enumerate(
        caption_missing(missing, config, base.count_tokens, workers, base.most_tokens), 1
    ):
        if caption:
            generated[file] = caption
        yield StageProgress(f"captioning with {config.captioner}", number, len(missing))
    make = preservation_label if preservation else partial(label, count=base.count_tokens, most=base.most_tokens)
    labelled: Labelled = []
    for item, (own, warnings) in zip(images, found, strict=True):
        name = item.file.name
        given = make(name, own, generated.get(item.file), int(scale * folder_repeats(item.file)), config)
        if base.count_tokens:
            given = check_length(name, given, base.count_tokens, base.most_tokens)
        labelled.append((item, replace(given, warnings=(*warnings, *given.warnings))))
    return labelled


def _balance(
    labelled: Labelled, sizes: Sequence[int], sources: Sequence[str | Path], config: DataConfig
) -> tuple[Labelled, list[str]]:
    """Set the repeats by the sources' weights, or else balance concepts and preservation set; return warnings.

    `sizes`: the number of resolutions that each image is trained at. An epoch contains it once at each of them.
    """
    times = [given.repeats * count for (_, given), count in zip(labelled, sizes, strict=True)]
    seen = count_seen([(given.concept, each) for (_, given), each in zip(labelled, times, strict=True)])
    require_images(config.all_concepts, [(item.file.name, given.concept) for item, given in labelled])
    if config.source_weights:
        return _weigh(labelled, times, sources, config.source_weights)
    if not config.balance_concepts or len(seen) < 2:
        return labelled, []
    factors = balancing_repeats(seen)
    raised = {concept_name(name): factor for name, factor in factors.items() if factor > 1}
    lines = [
        f"{name}: its images are repeated {factor} times, to balance the concepts" for name, factor in raised.items()
    ]
    balanced = [(item, replace(given, repeats=given.repeats * factors[given.concept])) for item, given in labelled]
    return balanced, lines


def _weigh(
    labelled: Labelled, times: Sequence[int], sources: Sequence[str | Path], weights: Mapping[str, float]
) -> tuple[Labelled, list[str]]:
    """Set the repeats so that each source has its weight. Those of the preservation set do not change.

    `times`: how often an epoch contains each image.
    """
    counted = zip(labelled, times, strict=True)
    seen = count_by_source([(item.file.source, each) for (item, g), each in counted if g.concept is not None])
    if len(seen) < 2:
        return labelled, ["weight has no effect: only one of the sources has images"]
    factors = share_factors(seen, [weights.get(str(source), 1.0) for source in sources])
    changed = [
        (item, given if given.concept is None else replace(given, repeats=given.repeats * factors[item.file.source]))
        for item, given in labelled
    ]
    return changed, share_lines(source_labels(sources), seen, factors)


def _nothing_left(sources: Sequence[str | Path], rejected: Sequence[Rejected]) -> str:
    names = ", ".join(Path(str(source)).name for source in sources)
    if not rejected:
        formats = ", ".join(sorted(IMAGE_SUFFIXES))
        return f"{names}: contains no images. Add training images ({formats})."
    reasons = "; ".join(item.reason for item in rejected[:5])
    return f"{names}: no usable image among {len(rejected)} files: {reasons}"
