"""Tests that concepts on which no setting was tuned, one of each kind, are learned with the defaults and fewer steps
than in the report."""

from pathlib import Path

import pytest

from benchmarks.concepts.bases import draw_trained
from benchmarks.concepts.lottery import draw_concept
from benchmarks.concepts.report import new_judge
from benchmarks.concepts.seeds import REPORTING
from benchmarks.concepts.trial import ConceptJudge
from benchmarks.learning.diffusers_results import TRIGGER
from families.loading.sources import EMBEDDED_BASE
from job.output_folder import OutputFolder
from job.run import run
from settings.training import build_config

STEPS = 200
LIKENESS, LIKENESS_ELSEWHERE, GAIN, GROUNDS, KEPT, COPIES = 0.7, 0.7, 0.35, 0.85, 0.83, 0.25
"""Limits, with a margin to those of the report, which trains 500 steps (docs/learning.md)."""


@pytest.fixture(scope="module")
def judge() -> ConceptJudge:
    return new_judge()


@pytest.mark.slow
@pytest.mark.parametrize("seed", REPORTING[-4:])
def test_a_concept_that_no_setting_was_tuned_on_is_learned(seed: int, judge: ConceptJudge, tmp_path: Path) -> None:
    concept = draw_concept(seed)
    output = OutputFolder.create(tmp_path / "out")
    config = build_config(
        {
            "base_model": EMBEDDED_BASE,
            "trigger_word": TRIGGER,
            "class_word": concept.class_word,
            "max_train_steps": STEPS,
            "num_validation_images": 0,
        }
    )
    for _ in run(config, [concept.write_zip(tmp_path / "data.zip", TRIGGER)], output):
        pass
    found = judge.measure(concept, draw_trained(EMBEDDED_BASE, output.path))
    print(concept.kind, found)
    assert found.likeness >= LIKENESS and found.gain >= GAIN
    assert found.likeness_elsewhere >= LIKENESS_ELSEWHERE and found.grounds >= GROUNDS
    assert found.kept >= KEPT and found.copies <= COPIES
