"""Writes an output folder like that of a training, for tests of the report's page."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from evaluation.choice import Candidate, Relative
from evaluation.scores import Scores
from evaluation.verdict import give_verdict
from job.output_folder import OutputFolder
from preprocess.crops.crop import centre_crop
from preprocess.dataset import Example, PreparedDataset, Rejected, View
from settings.training import TrainingConfig

HOSTILE = "</script><img src=x onerror=alert(1)>"
STEPS, SCALES = (50, 100, 150, 200), (0.8, 1.0)


def scores(likeness: float, margin: float = 0.2, kept: float = 0.95, copied: float = 0.0) -> Scores:
    """Returns scores with these values. The others are arbitrary."""
    return Scores(likeness, 0.28, margin, 0.3, likeness + 0.1, copied, kept)


def candidate(step: int, fidelity: float, following: float = 0.9, kept: float = 0.95, scale: float = 1.0) -> Candidate:
    """Returns a candidate with these relative measures."""
    quality = (fidelity * following * kept) ** (1 / 3)
    return Candidate(step, scale, scores(fidelity), Relative(fidelity, following, kept, quality))


def evaluation_json(folder: Path) -> dict[str, Any]:
    """Writes the samples of an overfit run and returns its evaluation: likeness increases, then prompts are followed
    and preserved less."""
    figures = {50: (0.4, 0.95, 0.97), 100: (0.7, 0.9, 0.93), 150: (0.8, 0.7, 0.8), 200: (0.82, 0.45, 0.6)}
    candidates = [candidate(step, *figures[step], scale=scale) for step in STEPS for scale in SCALES]
    chosen = candidates[3]
    rows = []
    for one in candidates:
        name = f"evaluation/step_{one.step:06d}_scale_{one.scale:g}/00.png"
        save(folder / name, (one.step, 90, 140))
        rows.append({**json.loads(json.dumps(one, default=vars)), "pictures": [name, name]})
    save(folder / "evaluation/base/00.png", (120, 120, 120))
    return {
        "verdict": vars(give_verdict(candidates, chosen, 1.0)),
        "chosen": rows[3],
        "candidates": rows,
        "base": json.loads(json.dumps(scores(0.1), default=vars)),
        "base_pictures": ["evaluation/base/00.png", "evaluation/base/00.png"],
        "picture_prompts": [f"a photo of TOK {HOSTILE}", "TOK on the beach"],
        "training_pictures": 0.7,
        "trigger": {"with": 0.6, "without": 0.15},
        "reference_scale": 1.0,
        "measured_by": "By mini-sdxl, on 8 samples of 4 prompts.",
    }


def make_output(folder: Path, evaluated: bool = True) -> tuple[OutputFolder, PreparedDataset]:
    """Returns the folder and its dataset. report.html is not written yet."""
    output = OutputFolder(folder)
    folder.mkdir(parents=True)
    config = TrainingConfig(base_model="mini-sdxl", max_train_steps=200, validation_prompt="a photo of TOK")
    examples = []
    for index in range(5):
        save(output.dataset / f"images/{index}.png", (40 * index, 160, 90))
        view = View(f"images/{index}.png", centre_crop((64, 64), (64, 64)))
        examples.append(Example(f"{index}.jpg", f"a photo of TOK, {HOSTILE}", "template", (view,), "TOK"))
    dataset = PreparedDataset(output.dataset, tuple(examples), (Rejected(HOSTILE, "damaged"),), ("a warning",))
    for when, colour in (("before", (200, 200, 60)), ("", (60, 90, 200))):
        for index in range(3):
            save(output.samples / when / f"{index:02d}.png", colour)
    output.metrics.write_text("".join(json.dumps(row(step)) + "\n" for step in range(1, 201)) + '{"step": 2', "utf-8")
    validation = ({"step": step, "score": 1.0, "loss_0": 0.2, "loss_1": 0.1 + 1 / (step + 9)} for step in (0, 50, 100))
    output.validation.write_text("".join(json.dumps(one) + "\n" for one in validation), "utf-8")
    report = {
        "config": config.model_dump(mode="json"),
        "images": 5,
        "triggers": ["TOK"],
        "base": {"pipeline": "StableDiffusionXLPipeline", "encoders": ["clip_l", "clip_g"]},
        "rejected": [{"source": HOSTILE, "reason": "damaged"}],
        "warnings": ["a warning", HOSTILE],
        "verification": {"effect": 1.0, "difference": 1e-5},
        "evaluation": evaluation_json(folder) if evaluated else None,
        "seconds": 83.2,
        "phases": {
            "load": 1.2,
            "prepare": 0.8,
            "cache": 0.5,
            "train": 61.0,
            "sample": 9.5,
            "verify": 0.4,
            "evaluate": 9,
        },
        "versions": {"python": "3.11", "torch": "2"},
        "machine": {"system": "Linux x86_64", "processors": 2, "accelerator": "none", "cuda": None},
    }
    output.report.write_text(json.dumps(report), encoding="utf-8")
    return output, dataset


def row(step: int) -> dict[str, Any]:
    """A line of metrics.jsonl."""
    return {
        "step": step,
        "loss": 0.1 + 1 / (step + 5),
        "losses": {"diffusion": 0.1, "prior": 1 / (step + 5)},
        "gradient_norms": {"lora": 0.1 * (1 + step % 7), "tokens": 0.02},
        "learning_rates": {"lora": 1e-4, "tokens": 1e-3 * (1 - step / 201)},
        "seconds_per_step": 0.3,
        "peak_memory_gib": 1.5,
    }


def save(path: Path, colour: tuple[int, int, int]) -> None:
    """Writes an image of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 64), colour).save(path)
