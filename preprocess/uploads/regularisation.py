"""Detects regularisation folders of kohya projects: `img/10_TOK dog` beside `reg/1_dog`."""

from collections.abc import Sequence

from preprocess.uploads.intake import FoundFile
from preprocess.uploads.text_files import name_key

FOLDERS = {
    "reg", "regs", "regularisation", "regularization", "regularisation_images", "regularization_images", "reg_images",
    "reg_data", "reg_dir", "class_images", "class_data", "prior", "prior_images",
}  # fmt: skip


def regularisation_images(images: Sequence[FoundFile], concept_folders: Sequence[str | None]) -> list[FoundFile]:
    """Return the images in regularisation folders, if there are other images. Folders of a concept are excluded."""
    claimed = {name_key(folder).split("/")[-1] for folder in concept_folders if folder}
    inside = [image for image in images if _lies_in_one(image, FOLDERS - claimed)]
    return inside if len(inside) < len(images) else []


def _lies_in_one(image: FoundFile, folders: set[str]) -> bool:
    parts = image.path.relative_to(image.root).parts[:-1]
    return any(name_key(part).replace(" ", "_").replace("-", "_") in folders for part in parts)
