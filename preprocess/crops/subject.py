"""Finds the subject of each image, and its crop window: the face, the mask, or the most detailed part."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from PIL import Image, ImageChops

from preprocess.crops.crop import MAX_ENLARGEMENT, Size, Window, largest_window
from preprocess.crops.masks import centre_of_mass, face_mask, opacity_mask, read_mask
from preprocess.dataset import FaceBox
from preprocess.errors import DatasetError
from preprocess.faces.people import FacesOfPicture
from preprocess.uploads.decoding import Picture
from settings.preparation import DataConfig


@dataclass(frozen=True)
class Subject:
    """The subject of an image. `window`: the crop, with the bucket's aspect ratio. `mask`: mode "L", of the image's
    size.

    `found_by`: face, mask, saliency or centre.
    """

    window: Window
    found_by: str
    mask: Image.Image | None = None
    faces: tuple[FaceBox, ...] = ()
    warnings: tuple[str, ...] = ()


class SubjectFinder:
    """Finds subjects as the configuration asks. Models are loaded once, and used by one thread at a time."""

    def __init__(self, config: DataConfig) -> None:
        """Raises DatasetError when a requested detector or model cannot be loaded."""
        self._config = config
        self._crop = _resolve_crop(config)
        self._lock = Lock()
        self._detector = None
        self._segmenter = None
        if self._crop == "face" or config.mask == "face":
            from preprocess.faces.registry import find_detector

            self._detector = find_detector(config.face_detector, config.face_detector_model)
        if config.mask == "subject":
            from preprocess.crops.clipseg import SubjectSegmenter

            self._segmenter = SubjectSegmenter.load(config.mask_model)

    @property
    def looks_for_faces(self) -> bool:
        """Whether faces are detected."""
        return self._detector is not None

    @property
    def warnings(self) -> list[str]:
        """Warnings that do not concern a single image."""
        if self._detector is None or self._detector.name != "haar" or self._config.face_detector == "haar":
            return []
        return [
            "faces are detected with OpenCV's Haar cascade, which finds only upright frontal faces; set "
            "face_detector_model to YuNet's file to detect profiles and small faces too"
        ]

    def find(
        self,
        picture: Picture,
        name: str,
        bucket: Size,
        class_words: Sequence[str],
        mask_file: Path | None = None,
        people: FacesOfPicture | None = None,
    ) -> Subject:
        """Find the subject of an image. `class_words`: prompts for CLIPSeg where mask_prompt is not set.

        `mask_file`: the user's own mask of the image. `people`: its faces, where they are known.
        """
        search = _Search(picture, name, bucket[0] / bucket[1], mask_file=mask_file, people=people)
        if people is not None:
            search.faces = people.faces
            search.name_others(masked=self._config.mask != "none")
        elif self._detector is not None:
            with self._lock:
                search.faces = self._detector.detect(picture.image)
        search.mask = search.without_others(self._mask(search, class_words))
        return self._window(search, bucket)

    def _mask(self, search: "_Search", class_words: Sequence[str]) -> Image.Image | None:
        source = self._config.mask
        if source in ("auto", "files"):
            return self._mask_of_file(search)
        if source == "alpha":
            mask = opacity_mask(search.picture.opacity)
            if mask is None:
                search.warn(
                    "has no transparency for its mask, so the loss is computed everywhere; make its background "
                    "transparent"
                )
            return mask
        if self._segmenter is not None:
            prompts = [self._config.mask_prompt] if self._config.mask_prompt else list(class_words)
            with self._lock:
                found = self._segmenter.segment(search.picture.image, prompts)
            search.warn(*found.warnings)
            return found.mask
        if source == "face":
            if chosen := search.chosen_face():
                return face_mask(chosen, search.picture.image.size)
            search.warn(
                "no face was detected for its mask, so the loss is computed everywhere; crop it yourself or remove it"
            )
        return None

    def _mask_of_file(self, search: "_Search") -> Image.Image | None:
        if search.mask_file is None:
            if self._config.mask == "auto":
                return opacity_mask(search.picture.opacity)
            search.warn("has no mask file, so the loss is computed everywhere; add one next to it, such as x.mask.png")
            return None
        try:
            return read_mask(search.mask_file, search.picture.image.size)
        except DatasetError as error:
            search.warn(f"{error}; the loss is computed everywhere")
            return None

    def _window(self, search: "_Search", bucket: Size) -> Subject:
        size = search.picture.image.size
        if self._crop == "face":
            if chosen := search.chosen_face():
                from preprocess.faces.window import face_window

                least = (bucket[0] / MAX_ENLARGEMENT, bucket[1] / MAX_ENLARGEMENT)
                return search.result(face_window(chosen, size, search.aspect, least), "face")
            search.warn("no face was detected; it is cropped to its most detailed part. Crop it yourself or remove it")
        if self._crop == "mask" and search.mask is not None:
            return search.result(largest_window(size, search.aspect, centre_of_mass(search.mask)), "mask")
        if self._crop == "centre":
            return search.result(largest_window(size, search.aspect), "centre")
        from preprocess.crops.saliency import salient_window

        return search.result(salient_window(search.picture.image, search.aspect), "saliency")


@dataclass
class _Search:
    """Intermediate results for one image."""

    picture: Picture
    name: str
    aspect: float
    faces: Sequence[FaceBox] = ()
    mask: Image.Image | None = None
    warnings: list[str] = field(default_factory=list)
    mask_file: Path | None = None
    people: FacesOfPicture | None = None
    _chosen: FaceBox | None = None

    def warn(self, *reasons: str) -> None:
        self.warnings += [f"{self.name}: {reason}" for reason in reasons]

    def chosen_face(self) -> FaceBox | None:
        """Return the face that is the subject, None without faces. Warns once of other faces of similar size."""
        if self._chosen is None and self.people is not None and self.people.recurring is not None:
            self._chosen = self.people.recurring
        if self._chosen is None and self.faces:
            if self.people is not None:
                self.warn(
                    "the recurring face of the concept was not detected in it; remove it if it shows other people"
                )
            from preprocess.faces.choice import choose_face

            choice = choose_face(self.faces, self.picture.image.size)
            self._chosen = choice.face
            self.warn(*choice.warnings)
        return self._chosen

    @property
    def others(self) -> list[FaceBox]:
        """Return the faces other than the recurring one; [] if that is not known."""
        recurring = None if self.people is None else self.people.recurring
        return [] if recurring is None else [face for face in self.faces if face != recurring]

    def without_others(self, mask: Image.Image | None) -> Image.Image | None:
        """Remove the faces of other people from the mask. The recurring face is kept whole."""
        if mask is None or not self.others or self.people is None or self.people.recurring is None:
            return mask
        size = self.picture.image.size
        removed = Image.new("L", size)
        for face in self.others:
            removed = ImageChops.lighter(removed, face_mask(face, size))
        removed = ImageChops.subtract(removed, face_mask(self.people.recurring, size))
        return ImageChops.subtract(mask, removed)

    def name_others(self, *, masked: bool) -> None:
        """Warn about other faces than the recurring one. `masked`: whether they are removed from a mask."""
        if not self.others:
            return
        places = ", ".join(f"({one.left + one.width / 2:.0f}, {one.top + one.height / 2:.0f})" for one in self.others)
        counted = "1 face is" if len(self.others) == 1 else f"{len(self.others)} faces are"
        handled = "removed from the mask" if masked else "trained if inside the crop; mask: face excludes them"
        self.warn(f"{counted} not the recurring one of the concept, around pixel {places}: {handled}")

    def result(self, window: Window, found_by: str) -> Subject:
        return Subject(window, found_by, self.mask, tuple(self.faces), tuple(self.warnings))


def _resolve_crop(config: DataConfig) -> str:
    """Resolve `auto`: the face in face mode, else the mask if masks are used, else the most detailed part."""
    if config.crop != "auto":
        return config.crop
    if config.concept_mode == "face":
        return "face"
    return "mask" if config.mask != "none" else "saliency"
