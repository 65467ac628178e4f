"""report.html: the results of a training in one file that needs no network.

All its data are read from the output folder, so that `python -m job.report FOLDER` can write it again.
"""

import html
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from job.controlnet.samples import CONDITIONS
from job.output_folder import OutputFolder, write_whole
from job.report.curves import Curve, curves
from job.report.frames import step_frames
from job.report.metrics import read_metrics
from job.report.settings_shown import shown_settings
from job.report.usage import recipes_of_report
from job.restoring.samples import ORIGINALS
from pages.pictures import THUMBNAIL_SIDE, picture_uri, sample_uris
from pages.shell import html_page, page_file
from preprocess.dataset import Example, PreparedDataset
from preprocess.gallery.page import GALLERY_FILE

SHOWN_IMAGES = 48
"""Largest number of training images on the page, divided among the concepts. The dataset's own page shows all."""


def write_page(output: OutputFolder, dataset: PreparedDataset) -> Path:
    """Write report.html into the output folder, and return its path. Requires report.json."""
    summary = json.loads(output.report.read_text(encoding="utf-8"))
    rows, scores = read_metrics(output.metrics), read_metrics(output.validation)
    charts = curves(rows, summary.get("evaluation"), scores, _looks(summary))
    write_whole(output.page, page(_data(output, dataset, summary), charts))
    return output.page


def page(data: Mapping[str, Any], charts: Sequence[Curve]) -> str:
    """Return the HTML of the page."""
    script, body = (page_file(f"report.{kind}", "job.report") for kind in ("js", "html"))
    body = Template(body).substitute(charts="\n".join(map(_figure, charts)))
    kicker = '<p class="kicker" id="kicker"></p>'
    return html_page("Training report", kicker, body, style=page_file("report.css"), script=script, data=data)


def _data(output: OutputFolder, dataset: PreparedDataset, summary: Mapping[str, Any]) -> dict[str, Any]:
    evaluation = summary.get("evaluation")
    config = summary["config"]
    return {
        "triggers": summary["triggers"],
        "base": config["base_model"],
        "steps": summary.get("steps", config["max_train_steps"]),
        "seconds": summary["seconds"],
        "phases": summary["phases"],
        "resumedAt": summary.get("resumed_at", 0),
        "verification": summary["verification"],
        "evaluation": evaluation,
        "warnings": list(dict.fromkeys([*summary["warnings"], *summary.get("image_warnings", [])])),
        "rejected": summary["rejected"],
        "prompts": _prompts_of_samples(config),
        "before": sample_uris(output.samples_before),
        "after": sample_uris(output.samples),
        "conditions": sample_uris(output.samples / CONDITIONS),
        "originals": sample_uris(output.samples / ORIGINALS),
        "restoration": summary.get("restoration"),
        "ending": summary.get("ending"),
        "plan": summary.get("plan"),
        "frames": step_frames(output, evaluation),
        "images": _images(dataset),
        "imageCount": len(dataset.largest),
        "gallery": f"{output.dataset.name}/{GALLERY_FILE}",
        "recipes": [vars(recipe) for recipe in recipes_of_report(summary)],
        "settings": shown_settings(config),
        "versions": summary["versions"],
        "machine": summary["machine"],
    }


def _looks(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    return (summary.get("ending") or {}).get("looks", [])


def _prompts_of_samples(config: Mapping[str, Any]) -> list[str]:
    """Return one prompt for each image."""
    prompts = config.get("validation_prompts") or [config["validation_prompt"]]
    return [prompt for prompt in prompts for _ in range(config["num_validation_images"])]


def _images(dataset: PreparedDataset) -> list[dict[str, str]]:
    return [
        {
            "picture": picture_uri(dataset.folder / example.views[0].file, THUMBNAIL_SIDE),
            "caption": "\n".join(example.captions),
            "name": example.source,
        }
        for example in _of_all_concepts(dataset.largest)
    ]


def _of_all_concepts(examples: Sequence[Example]) -> list[Example]:
    """Return at most SHOWN_IMAGES, about equally many of each concept, in their order."""
    seen: Counter[str | None] = Counter()
    ranked = []
    for place, example in enumerate(examples):
        ranked.append((seen[example.concept], place))
        seen[example.concept] += 1
    return [examples[place] for place in sorted(place for _, place in sorted(ranked)[:SHOWN_IMAGES])]


def _figure(curve: Curve) -> str:
    title, reading = html.escape(curve.title), html.escape(curve.reading)
    return f'<figure class="chart"><figcaption><h3>{title}</h3><p>{reading}</p></figcaption>{curve.svg}</figure>'
