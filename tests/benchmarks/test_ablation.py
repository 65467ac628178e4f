"""The ablation table: every option can be trained, and differences are marked by their spread over seeds."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.learning.ablation import _sampler, measure
from benchmarks.learning.ablation_table import differs, write_page
from benchmarks.learning.ablation_variants import REFERENCE, VARIANTS
from benchmarks.learning.measures import Draw, Scores
from settings.training import build_config


def test_every_option_is_a_valid_training_that_differs_from_the_reference() -> None:
    reference, *others = VARIANTS
    usual = build_config(reference.settings)
    assert len({variant.name for variant in VARIANTS}) == len(VARIANTS)
    for variant in others:
        assert build_config(variant.settings) != usual, variant.name


@pytest.mark.slow
def test_an_option_is_trained_drawn_with_and_timed() -> None:
    class Judge:
        def __init__(self) -> None:
            assert not _sampler().triggers  # it would take the first training for the base

        def score(self, draw: Draw, trigger: str, class_word: str) -> Scores:
            assert len({picture.tobytes() for picture in draw([f"a photo of {trigger}"] * 2)}) == 2
            return Scores(1.0, 0.5, 0.25)

    settings = {**REFERENCE, "max_train_steps": 2, "train_batch_size": 1, "lora_targets": "cross-attention-kv"}
    row = measure(settings, Judge)  # type: ignore[arg-type]
    assert (row["concept"], row["prompt"], row["prior"]) == (1.0, 0.5, 0.25)
    assert row["steps/s"] > 0


def row_of(option: str, concept: float, spread: float, group: str = "loss") -> dict[str, Any]:
    scores = {name: value for score in ("concept", "prompt", "prior")
              for name, value in ((score, concept), (f"{score} ±", spread))}  # fmt: skip
    return {"group": group, "option": option, **scores, "steps/s": 3.0}


@pytest.mark.parametrize(
    ("concept", "spread", "expected"), [(0.5, 0.01, True), (0.5, 0.2, False), (0.41, 0.01, False), (0.42, 0.01, False)]
)
def test_only_what_seeds_agree_on_stands_out(concept: float, spread: float, expected: bool) -> None:
    reference = row_of("reference", 0.4, 0.01)
    assert differs(row_of("option", concept, spread), reference, "concept", 3) is expected


def test_the_page_groups_the_options(tmp_path: Path) -> None:
    rows = [row_of("usual", 0.4, 0.01, "reference"), row_of("better", 0.6, 0.01), row_of("same", 0.4, 0.02)]
    write_page(tmp_path / "page.md", rows, {"rank": 8}, 3)
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "| better | **0.60 ± 0.01** |" in text and "| same | 0.40 ± 0.02 |" in text
    assert text.count("| **loss** |") == 1 and "3 seeds" in text and "rank 8" in text
