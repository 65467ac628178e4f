"""All settings of data preparation. `TrainingConfig` inherits them, so that they have the same names everywhere."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from settings.callers import Limited, Model, Open, Operator
from settings.concepts import ConceptSection, require_other_class_word
from settings.data.sizes import SizeSection
from settings.data.sources import SourceSection, dataset_rules
from settings.filters import parse_filter
from settings.record import MEANINGS, Settings

CropMode = Literal["auto", "face", "mask", "saliency", "centre"]
ControlName = Literal["none", "canny", "grey", "scribble", "inpainting", "super_resolution", "faces", "files"]
FACE_FEATURES = 128
"""Numbers in a face's vector, by SFace."""
MaskSource = Literal["none", "auto", "files", "face", "subject", "alpha"]


class IntakeSection(Settings):
    """Which files are used, and the limits on their sizes."""

    filters: Limited[tuple[str, ...]] = Field(
        (), description="Conditions on metadata to select images, such as 'aesthetic_score > 4.5', 'width >= 512'"
    )
    file_column: Open[str | None] = Field(
        None, min_length=1, description="Column of metadata files that names the image"
    )
    caption_column: Open[str | None] = Field(
        None, min_length=1, description="Column of metadata files with the caption"
    )
    max_train_samples: Open[int | None] = Field(
        None, ge=1, description="Maximum number of training images; a random subset is selected with the seed"
    )
    max_archive_files: Limited[int] = Field(10_000, ge=1, description="Maximum number of files in an archive")
    max_file_bytes: Limited[int] = Field(
        200 * 1024**2, ge=1, description="Maximum size of one file in an archive, in bytes"
    )
    max_archive_bytes: Limited[int] = Field(
        5 * 1024**3, ge=1, description="Maximum size of an unpacked archive, and of a download, in bytes"
    )
    max_compression_ratio: Limited[float] = Field(
        200.0, ge=1, description="Maximum compression ratio of a file, above 50 MB"
    )


class DecodingSection(Settings):
    """Which images are rejected, and how the others are decoded."""

    min_image_side: Open[int] = Field(16, ge=1, description="Images with a shorter side, in pixels, are rejected")
    max_image_pixels: Limited[int] = Field(200_000_000, ge=1, description="Images with more pixels are rejected")
    transparency: Open[Literal["white", "grey"]] = Field("white", description="Background of transparent images")
    duplicates: Open[Literal["drop", "keep"]] = Field(
        "drop", description="Images with identical pixels: drop all but one, or keep them. Near duplicates are reported"
    )


class CaptionSection(Settings):
    """Captions: where they come from, and how they vary."""

    captions_from_file_names: Open[bool | None] = Field(
        None,
        description="Use the file name up to the first _ as caption if there is no other; by default if it has at "
        "least three words",
    )
    caption_prefix: Open[str] = Field(
        "", max_length=300, description="Text added before every caption, with or without trigger word"
    )
    caption_suffix: Open[str] = Field("", max_length=300, description="Text added after every caption")
    shuffle_tags: Open[bool] = Field(False, description="Shuffle the comma-separated tags of a caption each time")
    keep_first_tags: Open[int] = Field(
        1, ge=0, le=100, description="Number of tags at the start that shuffle_tags does not move"
    )
    caption_dropout: Open[float] = Field(
        0.05, ge=0, le=1, description="Share of captions replaced by the empty prompt; by default 0 with prior matching"
    )
    trigger_only_dropout: Open[float] = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of captions replaced by the trigger word; by default 0.3 with prior matching",
    )
    captioner: Model[str] = Field(
        "florence-2",
        min_length=1,
        description="Model that captions images without a caption: florence-2, blip, blip-2, qwen3-vl, glm-4v, "
        "joycaption, smolvlm, cogvlm, a hub id or a folder; none: a template with the trigger word",
    )
    captioner_prompt: Open[str | None] = Field(
        None, min_length=1, max_length=2000, description="Prompt for the captioner; by default a suitable one"
    )
    trust_remote_code: Operator[bool] = Field(
        False, description="Allow a captioner with its own program code (such as the original CogVLM)"
    )


class SubjectSection(Settings):
    """Position of the subject, for crops and for the mask of the loss."""

    crop: Open[CropMode] = Field(
        "auto",
        description="Part of the image to keep: the face, the mask, the most detailed part (saliency), or the centre; "
        "auto: face in face mode, otherwise the mask if there is one, otherwise saliency",
    )
    face_detector: Open[Literal["auto", "yunet", "yuface", "haar"]] = Field("auto", description="Face detector")
    face_detector_model: Operator[Path | None] = Field(None, description="YuNet's ONNX file")
    face_recognition_model: Operator[Path | None] = Field(
        None,
        description="SFace's ONNX file: if there are several people, the subject is the face that recurs in a "
        "concept's images; by default the most prominent face of each image",
    )
    mask: Open[MaskSource] = Field(
        "none",
        description="Area in which the loss is computed: everywhere (none), mask files beside the images (files: "
        "x-masklabel.png, x.mask.png, x_mask.png, masks/x.png), the face, the subject (CLIPSeg), opaque pixels "
        "(alpha); auto: the image's mask file, otherwise its transparency, otherwise everywhere",
    )
    mask_prompt: Open[str | None] = Field(
        None, min_length=1, max_length=200, description="Prompt for CLIPSeg; by default the class word"
    )
    mask_model: Model[str] = Field("CIDAS/clipseg-rd64-refined", min_length=1, description="CLIPSeg: hub id or folder")


class ControlSection(Settings):
    """Conditioning images of a ControlNet."""

    control: Open[ControlName] = Field(
        "none",
        description="With adapter controlnet: conditioning images, computed from the training images (canny, grey, "
        "scribble: coarse edges, inpainting: holes, super_resolution: a quarter of the sides), or files beside them: "
        "conditioning/x.png for x.jpg; on Stable Cascade also faces: their positions and identities "
        "(face_recognition_model)",
    )
    control_dropout: Open[float] = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of conditioning images replaced by black, or, with control faces, of faces left out",
    )
    control_max_faces: Open[int] = Field(
        4, ge=1, le=16, description="With control faces: maximum number of faces of an image that are used"
    )
    control_full_share: Open[float] = Field(
        0.3,
        ge=0,
        le=1,
        description="With control faces: share of images with a single face in which its embedding is used at all "
        "positions",
    )
    control_column: Open[str | None] = Field(
        None,
        min_length=1,
        description="With control files: column of metadata files that names the conditioning image",
    )


class AugmentationSection(Settings):
    """Additional views of each image."""

    horizontal_flip: Open[bool] = Field(False, description="Also train the mirror image; not for faces, text or logos")
    augmented_views: Limited[int] = Field(
        0, ge=0, le=64, description="Number of additional views of each image, changed by crop_jitter and color_jitter"
    )
    crop_jitter: Open[float] = Field(
        0.0, ge=0, le=0.5, description="Maximum share of the crop's sides by which it is reduced"
    )
    color_jitter: Open[float] = Field(
        0.0, ge=0, le=0.5, description="Maximum relative change of brightness, contrast and saturation"
    )


class ExecutionSection(Settings):
    """Number of threads, and the seed."""

    num_workers: Limited[int | None] = Field(
        None,
        ge=1,
        le=256,
        description="Number of data preparation threads in each process; by default one per available core",
    )
    seed: Open[int] = Field(0, ge=0, lt=2**63, description="Seed of all random generators")


class DataConfig(
    ExecutionSection,
    AugmentationSection,
    SizeSection,
    ControlSection,
    SubjectSection,
    CaptionSection,
    DecodingSection,
    IntakeSection,
    SourceSection,
    ConceptSection,
):
    """All settings of data preparation, in the reverse order of its bases, and the rules across its sections."""

    @model_validator(mode="before")
    @classmethod
    def _no_word_for_a_controlnet(cls, values: Any) -> Any:
        """A ControlNet has no tokens: if `control` is set, captions are by default trained unchanged."""
        if not isinstance(values, dict) or "trigger_word" in values or values.get("concepts"):
            return values
        off = str(values.get("control", "none")).lower() in MEANINGS[False]
        return values if off else {**values, "trigger_word": ""}

    @field_validator("filters", mode="before")
    @classmethod
    def _one_filter_is_a_list(cls, filters: Any) -> Any:
        return (filters,) if isinstance(filters, str) else filters

    @field_validator("filters")
    @classmethod
    def _filters_can_be_read(cls, filters: tuple[str, ...]) -> tuple[str, ...]:
        for text in filters:
            parse_filter(text)
        return filters

    @model_validator(mode="after")
    def _data_rules_across_fields(self) -> "DataConfig":
        for rule in (dataset_rules, _concept_rules, _caption_rules, _face_rules, _mask_rules, _augmentation_rules):
            rule(self)
        return self

    @property
    def uses_mask_files(self) -> bool:
        """Whether masks beside the images are used."""
        return self.mask in ("auto", "files")


def _concept_rules(config: DataConfig) -> None:
    triggers = [concept.trigger_word for concept in config.concepts if concept.trigger_word]
    for concept in config.all_concepts:
        require_other_class_word(concept)
    if len(set(triggers)) < len(triggers):
        raise ValueError(f"concepts: each needs a different trigger_word; given: {', '.join(triggers)}")
    if sum(not concept.trigger_word and not concept.folder for concept in config.concepts) > 1:
        raise ValueError("concepts: only one may have neither folder nor trigger_word; all other images belong to it")
    if config.concepts and (config.class_word or config.trigger_word not in ("TOK", *triggers)):
        raise ValueError(
            "concepts: trigger_word and class_word are set in each concept; leave them out at the top level"
        )
    if not config.has_preservation_set and config.preservation_weight != 1.0:
        raise ValueError("preservation_weight has no effect without preservation_data; leave it out")


def _caption_rules(config: DataConfig) -> None:
    if config.caption_dropout + config.trigger_only_dropout > 1:
        raise ValueError("caption_dropout and trigger_only_dropout together exceed 1")
    if config.caption_dropout == 1:
        raise ValueError("caption_dropout: 1 drops every caption; set it below 1, usually 0.05 to 0.2")
    if config.trigger_only_dropout > 0 and not config.class_words:
        raise ValueError("trigger_only_dropout has no effect without a trigger_word; leave it out")
    if config.captioner == "none" and config.captioner_prompt:
        raise ValueError("captioner_prompt has no effect with captioner none; leave one out")


def _face_rules(config: DataConfig) -> None:
    crops = config.crop == "face" or (config.crop == "auto" and config.concept_mode == "face")
    detects = crops or config.mask == "face" or config.control == "faces"
    for name in ("face_detector_model", "face_recognition_model"):
        if getattr(config, name) is not None and not detects:
            raise ValueError(
                f"{name} has no effect if faces are not detected; set concept_mode: face, crop: face, mask: face or "
                "control: faces, or leave it out"
            )
    for name in ("control_max_faces", "control_full_share"):
        if config.control != "faces" and config.differs(name):
            raise ValueError(f"{name} has no effect without control: faces; leave it out")


def _mask_rules(config: DataConfig) -> None:
    if config.mask_prompt and config.mask != "subject":
        raise ValueError("mask_prompt has no effect without mask: subject")
    if config.mask == "subject" and not config.mask_prompt and not all(c.class_word for c in config.all_concepts):
        raise ValueError("mask: subject needs a mask_prompt or class_word that names the subject")
    if config.crop == "mask" and config.mask == "none":
        raise ValueError("crop: mask needs a mask; set mask: auto, files, face, subject or alpha")


def _augmentation_rules(config: DataConfig) -> None:
    jitter = config.crop_jitter > 0 or config.color_jitter > 0
    if jitter and config.augmented_views == 0:
        raise ValueError("crop_jitter and color_jitter need augmented_views, such as augmented_views: 3")
    if config.augmented_views > 0 and not jitter:
        raise ValueError("augmented_views needs crop_jitter or color_jitter, otherwise all views are the same")
    if config.control_column and config.control != "files":
        raise ValueError("control_column has no effect without control: files; leave it out")
    if not config.shuffle_tags and config.keep_first_tags != 1:
        raise ValueError("keep_first_tags has no effect without shuffle_tags")
