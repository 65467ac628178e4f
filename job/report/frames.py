"""The samples of each step for the report, from the training or the evaluation."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from job.output_folder import OutputFolder
from pages.pictures import numbered_pictures, picture_uri

MAX_FRAMES = 40
FRAME_SIDE = 384
STEP_FOLDER = re.compile(r"step_(\d+)")
PROMPTS_FILE = "prompts.json"


def step_frames(output: OutputFolder, evaluation: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return `prompts`, one for each image of a frame, and `frames`, with step and images by step. Both may be
    empty."""
    folder = output.samples_by_step
    if folder.is_dir():
        prompts = json.loads((folder / PROMPTS_FILE).read_text(encoding="utf-8"))
        before = [(0, output.samples_before)] if output.samples_before.is_dir() else []
        matches = ((STEP_FOLDER.fullmatch(path.name), path) for path in folder.iterdir())
        found = before + sorted((int(match[1]), path) for match, path in matches if match)
        return {"prompts": prompts, "frames": [_frame(step, numbered_pictures(path)) for step, path in thin(found)]}
    if evaluation:
        whole = [one for one in evaluation["candidates"] if one["scale"] == evaluation["reference_scale"]]
        rows = [(0, evaluation["base_pictures"]), *((one["step"], one["pictures"]) for one in whole)]
        rows = sorted((step, [output.path / name for name in names]) for step, names in rows)
        return {
            "prompts": evaluation["picture_prompts"],
            "frames": [_frame(step, paths) for step, paths in thin(rows)],
        }
    return {"prompts": [], "frames": []}


def thin(rows: Sequence[Any]) -> list[Any]:
    """Return at most MAX_FRAMES of `rows`, evenly spread, including the first and the last."""
    if len(rows) <= MAX_FRAMES:
        return list(rows)
    return [rows[round(index * (len(rows) - 1) / (MAX_FRAMES - 1))] for index in range(MAX_FRAMES)]


def _frame(step: int, pictures: Sequence[Path]) -> dict[str, Any]:
    return {"step": step, "pictures": [picture_uri(path, FRAME_SIDE) for path in pictures]}
