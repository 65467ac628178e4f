"""Renders the views of every image and writes them with their masks."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from preprocess.captions.labels import Label
from preprocess.control.faces import FaceConditions
from preprocess.control.files import read_control
from preprocess.control.filters import FILTERS
from preprocess.crops.augment import AugmentationRules, PlannedView, plan_views
from preprocess.crops.buckets import DEFAULT_RESOLUTION, SMALLER_AREA, crop_loss
from preprocess.crops.crop import MAX_ENLARGEMENT, Crop, Size, crop_to_window
from preprocess.crops.subject import SubjectFinder
from preprocess.dataset import Example, View
from preprocess.faces.people import FacesOfPicture, face_look
from preprocess.uploads.decoding import DecodeRules, Picture, decode
from preprocess.uploads.survey import Surveyed, file_stem
from preprocess.workers.workers import Work, Workers
from settings.preparation import DataConfig
from settings.public import public_name

MUCH_LOST = 1 / 3
"""Fraction of an image's area above which a crop causes a warning."""
RUN_LENGTHS = 3
"""zlib's Z_RLE. Saving dominates the preparation of photographs: this is a quarter faster, with files an eighth
larger."""
MARKED = 128
"""Of 255. Smaller mask values are the soft edge, not the subject."""


@dataclass(frozen=True)
class RenderJob:
    """An image with all decisions about it. `bucket`: (width, height) in pixels. `people`: its faces, if already
    detected. `resolution`: the side of the trained area, in pixels. `picture`: as in `Example`. `warned`: whether
    another resolution's example already has its warnings."""

    surveyed: Surveyed
    label: Label
    bucket: Size
    number: int
    people: FacesOfPicture | None = None
    resolution: int = DEFAULT_RESOLUTION
    picture: int | None = None
    warned: bool = False


class Renderer:
    """Writes the images of a prepared dataset into `output`."""

    def __init__(self, config: DataConfig, output: Path) -> None:
        """Raises DatasetError when a requested model cannot be loaded."""
        self._config = config
        self._output = output
        self._rules = DecodeRules(config.min_image_side, config.max_image_pixels, config.transparency)
        self._subjects = SubjectFinder(config)
        self._augmentation = AugmentationRules(
            config.horizontal_flip, config.augmented_views, config.crop_jitter, config.color_jitter
        )
        self._faces = None
        if config.control == "faces":
            self._faces = FaceConditions(face_look(config).embed, config.control_max_faces, output)
        self._upscaler = None
        if config.upscaler:
            from preprocess.crops.upscale import Upscaler

            self._upscaler = Upscaler.load(config.upscaler)

    @property
    def warnings(self) -> list[str]:
        """Warnings that do not concern a single image."""
        return self._subjects.warnings

    @property
    def looks_for_faces(self) -> bool:
        """Whether faces are the subject of crops or masks."""
        return self._subjects.looks_for_faces

    def expected_size(self, size: Size) -> Size:
        """Return the size that the choice of the bucket uses: that after upscaling, where an upscaler is set."""
        return size[0] * self._factor, size[1] * self._factor

    @property
    def _factor(self) -> int:
        """The factor of the upscaler; 1 without one."""
        return self._upscaler.factor if self._upscaler else 1

    def render(self, jobs: Sequence[RenderJob], workers: Workers) -> Iterator[Example]:
        """Yield one example per job, in order."""
        for folder in ("images", "masks", *(("conditioning",) if self._config.control != "none" else ())):
            (self._output / folder).mkdir(exist_ok=True)
        work = Work(self._render, partial(_rendering, self._config, self._output), [self._output])
        yield from workers.map(work, jobs, self._config.num_workers)

    def _render(self, job: RenderJob) -> Example:
        name = job.surveyed.file.name
        picture = decode(job.surveyed.file.path, self._rules)
        words = class_words_of(job.label.concept, self._config)
        subject = self._subjects.find(picture, name, job.bucket, words, job.surveyed.mask, job.people)
        crop = crop_to_window(picture.image.size, subject.window, job.bucket)
        whole = picture.image
        picture, upscaled = self._enlarge(picture, crop, name)
        stem = f"{job.number:04d}_{file_stem(job.surveyed.file)}"
        planned = list(plan_views(crop, self._augmentation, f"{self._config.seed} {job.surveyed.fingerprint.exact}"))
        views = [self._write(stem, index, view, picture, subject.mask) for index, view in enumerate(planned)]
        faceless: tuple[str, ...] = ()
        if self._faces is not None:
            views, faceless = self._faces.write(views, planned, whole, name)
        elif self._config.control != "none":
            views = self._with_controls(views, planned, picture, job)
        masked = lost_subject(name, planned, subject.mask) if subject.mask else ()
        warnings = (
            *job.surveyed.notes,
            *job.label.warnings,
            *subject.warnings,
            *masked,
            *upscaled,
            *self._small(job, crop),
            *faceless,
            *_cut_away(name, job.surveyed.size, job.bucket, subject.found_by),
        )
        return Example(
            source=name,
            caption=job.label.caption,
            caption_source=job.label.source,
            views=tuple(views),
            concept=job.label.concept,
            repeats=job.label.repeats,
            weight=self._config.preservation_weight if job.label.concept is None else 1.0,
            preview=job.surveyed.preview,
            faces=subject.faces,
            crop_source=subject.found_by,
            warnings=() if job.warned else warnings,
            other_captions=job.label.others,
            picture=job.picture,
        )

    def _enlarge(self, picture: Picture, crop: Crop, name: str) -> tuple[Picture, tuple[str, ...]]:
        """Upscale the image where its crop would be enlarged and an upscaler is set."""
        if self._upscaler is None or crop.enlargement() <= 1:
            return picture, ()
        enlarged = self._upscaler.enlarge(picture.image)
        note = f"{name}: enlarged {self._upscaler.factor} times by {public_name(str(self._config.upscaler))}"
        return replace(picture, image=enlarged), (note,)

    def _small(self, job: RenderJob, crop: Crop) -> tuple[str, ...]:
        """Warn of an image that is smaller than the resolution requires."""
        width, height = job.surveyed.size
        size = f"{job.surveyed.file.name}: {width}×{height}"
        bucket = f"{job.bucket[0]}×{job.bucket[1]}"
        if job.bucket[0] * job.bucket[1] < SMALLER_AREA * job.resolution**2:
            given = f", even enlarged {self._factor} times" if self._upscaler else ""
            remedy = "or a lower resolution" if self._upscaler else "a lower resolution, or an upscaler"
            return (
                f"{size} is too small for the resolution {job.resolution}{given}; it is trained at {bucket}. "
                f"Use a larger image, {remedy}",
            )
        if crop.enlargement() > MAX_ENLARGEMENT * self._factor:
            times = f"{crop.enlargement():.1f} times"
            return (f"{size} is enlarged {times} to reach {bucket}. Use a larger image, or a lower resolution",)
        return ()

    def _write(self, stem: str, index: int, view: PlannedView, picture: Picture, mask: Image.Image | None) -> View:
        file = f"images/{stem}.png" if index == 0 else f"images/{stem}.view{index}.png"
        view.render(picture.image).save(self._output / file, compress_level=1, compress_type=RUN_LENGTHS)
        mask_file = None
        if mask is not None:
            mask_file = file.replace("images/", "masks/", 1)
            view.cut(mask).save(self._output / mask_file)
        return View(file, view.crop, mask_file, view.flipped)

    def _with_controls(
        self, views: Sequence[View], planned: Sequence[PlannedView], picture: Picture, job: RenderJob
    ) -> list[View]:
        """Add to each view its conditioning image of a ControlNet, cropped and mirrored like the view."""
        given = job.surveyed.control
        source = read_control(given, picture.image.size, self._rules) if given else picture.image
        made = []
        for number, (view, plan) in enumerate(zip(views, planned, strict=True)):
            if given:
                cut = plan.cut(source)
            else:  # of the trained colours: color_jitter would otherwise teach to change them
                draws = random.Random(f"{self._config.seed} {job.surveyed.fingerprint.exact} {number}")
                cut = FILTERS[self._config.control](plan.render(source), draws)
            control = view.file.replace("images/", "conditioning/", 1)
            cut.save(self._output / control, compress_level=1)
            made.append(replace(view, control=control))
        return made


def class_words_of(concept: str | None, config: DataConfig) -> list[str]:
    """Return the class words of an image's concept; of all concepts for a preservation image."""
    known = [each for each in config.all_concepts if each.class_word]
    return [each.class_word for each in known if each.class_word and concept in (each.trigger_word, None)]


def _rendering(config: DataConfig, output: Path) -> AbstractContextManager[Callable[[RenderJob], Example]]:
    """Open a renderer in another process, with its own models."""
    return nullcontext(Renderer(config, output)._render)


def _cut_away(name: str, size: Size, bucket: Size, found_by: str) -> tuple[str, ...]:
    """Warn of an image of which a large part is cropped. A crop to the face is meant to do so."""
    lost = crop_loss(size, bucket)
    if lost <= MUCH_LOST or found_by == "face":
        return ()
    return (
        f"{name}: {size[0]}×{size[1]} is cropped to {bucket[0]}×{bucket[1]}, and {lost:.0%} of it is lost. Crop it "
        "yourself, for example into several images",
    )


def lost_subject(name: str, views: Sequence[PlannedView], mask: Image.Image) -> tuple[str, ...]:
    """Warn when some views contain nothing of the masked subject."""
    lost = sum(int(np.asarray(view.cut(mask)).max()) < MARKED for view in views)
    if not lost:
        return ()
    return (f"{name}: its mask is empty in {lost} of its {len(views)} views; set crop: mask, or less crop_jitter",)
