"""The protocol of a comparison, read from YAML: subjects, images, LoRAs, prompts. DreamBench is one."""

from pathlib import Path

from PIL import Image
from pydantic import Field, model_validator

from preprocess.errors import DatasetError
from preprocess.uploads.decoding import decode, is_image_name
from settings.record import ConfigError, Settings, build_settings, read_settings_file


class Subject(Settings):
    """One concept: its reference images, and the LoRAs that were trained on it."""

    name: str = Field(min_length=1, description="Name in the table")
    pictures: Path | None = Field(None, description="Folder of reference images; None: likeness is not measured")
    class_word: str = Field("object", min_length=1, description="Replaces the trigger word in the base model's prompts")
    trigger: str | None = Field(None, description="Trigger word; by default the LoRA's own, otherwise the class word")
    loras: dict[str, Path] = Field(default_factory=dict, description="Files by name in the table")


class Protocol(Settings):
    """A comparison. `{trigger}` in a prompt is replaced by the trigger word or the class word."""

    base_model: str = Field(min_length=1, description="Base model of every LoRA")
    subjects: tuple[Subject, ...] = Field(min_length=1, description="The compared subjects")
    prompts: tuple[str, ...] = Field(min_length=1, description="Each with {trigger}")
    unrelated_prompts: tuple[str, ...] = Field((), description="By default six that suit the base model")
    samples_per_prompt: int = Field(4, ge=1, le=64, description="Images per prompt: DreamBench has 4")
    scales: tuple[float, ...] = Field((1.0,), min_length=1, description="Scales of each LoRA")
    side: int | None = Field(None, ge=32, le=4096, description="Side of the images in pixels; None: the base model's")
    num_inference_steps: int = Field(30, ge=1, le=1000, description="Denoising steps")
    guidance_scale: float = Field(6.0, ge=0, le=50, description="Classifier-free guidance")
    seed: int = Field(0, ge=0, description="Seed of the first image of each prompt")
    clip: str | None = Field(None, description="Hub id or folder; DreamBench's is openai/clip-vit-base-patch32")
    dino: str | None = Field(None, description="Hub id, folder, or none; DreamBench's is facebook/dino-vits16")

    @model_validator(mode="after")
    def _prompts_call_the_subject(self) -> "Protocol":
        if any("{trigger}" not in prompt for prompt in self.prompts):
            raise ValueError("prompts: each must contain {trigger}, which is replaced by the trigger word")
        return self

    def count_rows(self) -> int:
        """Return the number of rows to score: the base model and every LoRA at every scale, for each subject."""
        return sum(1 + len(subject.loras) * len(self.scales) for subject in self.subjects)


def read_protocol(path: Path) -> Protocol:
    """Read a protocol from YAML. Paths in it are relative to the file.

    Raises ConfigError for invalid values, and as `require_readable`.
    """
    protocol = build_settings(Protocol, read_settings_file(path))
    subjects = tuple(_placed(subject, path.parent) for subject in protocol.subjects)
    placed = protocol.model_copy(update={"subjects": subjects})
    require_readable(placed)
    return placed


def require_readable(protocol: Protocol) -> None:
    """Raises ConfigError for files and folders that do not exist, and for reference images that cannot be read."""
    for subject in protocol.subjects:
        missing = [str(path) for path in subject.loras.values() if not path.is_file()]
        if missing:
            raise ConfigError(f"subjects: {subject.name}: {missing[0]} does not exist")
        folder = subject.pictures
        if folder is None:
            continue
        files = picture_files(folder) if folder.is_dir() else []
        if not files:
            raise ConfigError(
                f"subjects: {subject.name}: the folder {folder} does not exist, or contains no images "
                "(those in folders inside it are not used)"
            )
        for file in files:
            reference_picture(file)


def picture_files(folder: Path) -> list[Path]:
    """Return the reference images in a folder, sorted by name."""
    return sorted(path for path in folder.iterdir() if path.is_file() and is_image_name(path))


def reference_picture(file: Path) -> Image.Image:
    """Return a reference image in RGB, decoded as a training image is. Raises ConfigError."""
    try:
        return decode(file).image
    except (DatasetError, OSError) as error:
        raise ConfigError(f"pictures: {file.parent}: {error}") from None


def _placed(subject: Subject, root: Path) -> Subject:
    loras = {name: root / path for name, path in subject.loras.items()}
    return subject.model_copy(
        update={"loras": loras, "pictures": root / subject.pictures if subject.pictures else None}
    )
