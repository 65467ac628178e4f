"""Tests that of any upload, every image is trained, used as a mask or refused with a reason, and that each trained
caption names its source."""

import io
import json
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from preprocess.errors import DatasetError
from preprocess.prepare import prepare
from settings.preparation import DataConfig
from settings.record import build_settings

PLACES = ("{}", "a/{}", "a/b/{}", "10_a TOK dog/{}", "reg/1_dog/{}", "masks/{}", "out/images/{}")
STEMS = ("p0", "p1", "p2", "p0_mask", "p1-masklabel", "a dog on grass", "IMG 2024 05 12")
TEXTS = ("a TOK", "a dog\nTOK, red", "{a|the} TOK", "[trigger] on sand", "", "a dog, (red:1.2)")
IMAGES = {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP"}
SIDECARS = (".txt", ".caption", ".json", ".png.txt")


def picture(seed: int, kind: str) -> bytes:
    """Return an image file. Equal seeds give equal pixels; seed 9 gives bytes that are not an image."""
    if seed == 9:
        return b"no image"
    pixels = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((24 + 8 * seed, 32), Image.Resampling.NEAREST).save(buffer, kind)
    return buffer.getvalue()


@st.composite
def uploads(draw: st.DrawFn) -> dict[str, bytes]:
    """Draw file names with their contents: images, caption files, tables, and the files of an earlier output."""
    files: dict[str, bytes] = {}
    for _ in range(draw(st.integers(1, 6))):
        place, stem, suffix = (
            draw(st.sampled_from(PLACES)),
            draw(st.sampled_from(STEMS)),
            draw(st.sampled_from([*IMAGES])),
        )
        files[place.format(stem + suffix)] = picture(draw(st.sampled_from((0, 1, 2, 3, 9))), IMAGES[suffix])
    for _ in range(draw(st.integers(0, 4))):
        text, suffix = draw(st.sampled_from(TEXTS)), draw(st.sampled_from(SIDECARS))
        content = json.dumps({"caption": text.split("\n")}) if suffix == ".json" else text
        files[draw(st.sampled_from(PLACES)).format(draw(st.sampled_from(STEMS)) + suffix)] = content.encode()
    if draw(st.booleans()):
        rows = draw(
            st.lists(
                st.tuples(st.sampled_from(STEMS), st.sampled_from(TEXTS)), max_size=3, unique_by=lambda row: row[0]
            )
        )
        lines = [json.dumps({"file_name": f"{stem}.png", "text": text}) for stem, text in rows]
        files["metadata.jsonl"] = "\n".join(lines).encode()
    if draw(st.booleans()):
        files |= {"out/dataset.jsonl": b"{}", "out/rejected.jsonl": b""}
    return files


@settings(max_examples=30, deadline=None)
@given(uploads(), st.sampled_from(("none", "auto")))
def test_every_image_is_trained_or_named_and_every_caption_has_its_file(files: dict[str, bytes], mask: str) -> None:
    options = {"captioner": "none", "resolution": 32, "mask": mask, "num_workers": 1}
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            path = Path(folder, "data", name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        output, refusal = Path(folder, "dataset"), "no usable image among"
        try:
            prepare([Path(folder, "data")], build_settings(DataConfig, options), output)
        except DatasetError as error:
            refusal = str(error)
        trained = [json.loads(line) for line in (output / "dataset.jsonl").read_text().splitlines()]
        refused = [json.loads(line) for line in (output / "rejected.jsonl").read_text().splitlines()]
    assert "no usable image among" in refusal
    given_images = {name for name in files if Path(name).suffix in IMAGES}
    sources = [row["source"] for row in trained]
    reasons = {row["source"]: row["reason"] for row in refused if row["source"] in given_images}
    as_masks = given_images - set(sources) - set(reasons)
    assert len(sources) == len(set(sources)) and not set(sources) & set(reasons)
    assert all(reasons.values())
    assert not as_masks or (mask == "auto" and all("mask" in name for name in as_masks))
    assert len(as_masks) <= sum(view["mask"] is not None for row in trained for view in row["views"]) + sum(
        "mask" in warning for row in trained for warning in row["warnings"]
    )
    files_of_captions = {Path(name).name for name in files} | {"file name", "folder name", "template"}
    assert {row["caption_source"] for row in trained} <= files_of_captions
