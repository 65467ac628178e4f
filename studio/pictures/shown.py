"""Displays an image of a prepared dataset: the whole image, with its crop, faces and mask."""

from pathlib import Path

from PIL import Image, ImageDraw

from preprocess.dataset import Example, FaceBox
from preprocess.errors import DatasetError

CROP_COLOUR, FACE_COLOUR = "#ff5a36", "#2f9bff"
OUTSIDE = 0.45
"""Brightness outside of the crop, and outside of the mask."""
Box = tuple[float, float, float, float]


def picture_with_crop(folder: Path, example: Example) -> Image.Image:
    """Return the preview, darker outside of the crop and the mask, with frames around faces. Raises DatasetError."""
    plain = example.views[0]
    if example.preview is None:
        return _open(folder / plain.file)
    picture = _open(folder / example.preview)
    scale = picture.width / plain.crop.original[0]
    window = plain.crop.window()
    box = _scaled(window.left, window.top, window.width, window.height, scale)
    light = Image.new("L", picture.size, 0)
    corner, size = (round(box[0]), round(box[1])), (round(box[2] - box[0]), round(box[3] - box[1]))
    kept = _open(folder / plain.mask).convert("L").resize(size) if plain.mask else Image.new("L", size, 255)
    light.paste(kept, corner)
    shown = Image.composite(picture, picture.point(lambda value: int(value * OUTSIDE)), light)
    width = max(2, round(max(picture.size) / 160))
    draw = ImageDraw.Draw(shown)
    draw.rectangle(box, outline=CROP_COLOUR, width=width)
    for face in example.faces:
        draw.rectangle(_face_box(face, scale), outline=FACE_COLOUR, width=width)
    return shown


def facts(example: Example) -> str:
    """Return one line on sizes, crop, faces, mask and caption."""
    (width, height), (across, down) = example.views[0].crop.original, example.bucket
    parts = [f"{width} × {height}, cropped to {across} × {down} around: {example.crop_source}"]
    parts.append(f"faces: {len(example.faces)}")
    parts.append("with a mask" if example.views[0].mask else "no mask")
    parts.append(f"caption from: {example.caption_source}")
    return " · ".join(parts)


def _face_box(face: FaceBox, scale: float) -> Box:
    return _scaled(face.left, face.top, face.width, face.height, scale)


def _scaled(left: float, top: float, width: float, height: float, scale: float) -> Box:
    return left * scale, top * scale, (left + width) * scale - 1, (top + height) * scale - 1


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise DatasetError(f"{path.name}: cannot be read as an image. Prepare the images again.") from error
