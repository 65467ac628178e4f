"""Tests of the ablation table: every option can be trained, and differences are marked if paired runs agree on them."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from artifact.artifact import Artifact
from benchmarks.concepts.lottery import draw_concept
from benchmarks.concepts.measures import Measures
from benchmarks.concepts.trial import base_fingerprint, fingerprint
from benchmarks.finished_runs import FinishedRuns
from benchmarks.learning.ablation import measure, measure_all
from benchmarks.learning.ablation_table import MEASURED, summary, write_page
from benchmarks.learning.ablation_variants import REFERENCE, VARIANTS
from benchmarks.paired import Difference, significant
from families.family import ModelFamily
from families.loading.sources import EMBEDDED_BASE_FOLDER
from settings.training import build_config
from trainer.resolution import resolve


def test_every_option_is_a_valid_training_that_differs_from_the_reference(base: ModelFamily) -> None:
    reference, *others = VARIANTS
    usual = resolve(build_config({**reference.settings, "class_word": "figure"}), base)
    assert len({variant.name for variant in VARIANTS}) == len(VARIANTS)
    for variant in others:
        assert resolve(build_config({**variant.settings, "class_word": "figure"}), base) != usual, variant.name


@pytest.mark.slow
def test_an_option_is_trained_drawn_with_and_timed() -> None:
    loaded: list[Artifact] = []

    class Sampler:
        def load(self, artifact: Artifact) -> None:
            loaded.append(artifact)

        def unload(self) -> None:
            loaded.append(loaded[0])

    class Judge:
        def measure(self, concept: object, draw: object) -> Measures:
            assert len(loaded) == 1 and list(loaded[0].triggers) == ["TOK"]
            return Measures(1.0, 0.5, 0.1, 0.25, 0.75, 0.0)

    settings = {
        **REFERENCE,
        "max_train_steps": 3,
        "train_batch_size": 1,
        "adapter": "none",
        "seed": 0,
    }
    row = measure(draw_concept(0), settings, lambda: (Judge(), Sampler()))  # type: ignore[arg-type, return-value]
    assert [row[name] for name in MEASURED] == [1.0, 0.5, 0.25, 0.75]
    assert row["steps/s"] > 0 and len(loaded) == 2


def rows_of(option: str, values: list[float], group: str = "loss") -> list[dict[str, Any]]:
    return [
        {"group": group, "option": option, "concept": number // 2, "seed": number % 2, "steps/s": 3.0 + number % 2}
        | dict.fromkeys(MEASURED, value)
        for number, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ([0.1, 0.12, 0.08, 0.1], True),
        ([0.1, -0.12, 0.3, 0.1], False),
        ([0.5], False),  # one pair shows nothing
        ([0.0, 0.0, 0.0], False),
        ([0.1, 0.3], False),  # t of one degree of freedom is 12.7
    ],
)
def test_only_what_paired_runs_agree_on_is_significant(differences: list[float], expected: bool) -> None:
    assert significant({"option": Difference.of(differences)}) == ({"option"} if expected else set())


def test_one_in_twenty_options_without_effect_is_not_significant() -> None:
    """Benjamini and Hochberg 1995: the k-th smallest of m p-values is compared with 5 % · k / m."""
    clear, barely = Difference(0.1, 0.02, 4), Difference(0.1, 0.06, 4)
    assert clear.p_value < 0.05 / 20 and 0.04 < barely.p_value < 0.05
    without = {f"none {number}": Difference(0.0, 0.02, 4) for number in range(18)}
    assert significant({"barely": barely}) == {"barely"}
    assert significant({"clear": clear, "barely": barely, **without}) == {"clear"}
    assert significant({}) == set()


def test_the_page_groups_the_options_and_begins_with_what_is_significant(tmp_path: Path) -> None:
    usual = rows_of("usual", [0.2, 0.4, 0.6, 0.8], "reference")
    better, same = rows_of("better", [0.3, 0.52, 0.7, 0.88]), rows_of("same", [0.1, 0.5, 0.5, 0.9])
    write_page(tmp_path / "page.md", [*usual, *better, *same], {"max_train_steps": 8}, (0, 1))
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "| usual | 2 | 0.50 ± 0.26 |" in text and "| better | 2 | **+0.10 ± 0.02** |" in text
    assert "| same | 2 | +0.00 ± 0.12 |" in text and "max_train_steps 8" in text
    assert text.count(" | 3.0 |\n") == 3  # the first seed's; the second one's is 4.0
    assert "- likeness higher with: better (+0.10)." in text and "- likeness lower with: none." in text
    assert text.count("| **loss** |") == 1 and "tuning seeds 0, 1)" in text
    assert "Not measured yet" not in text and "with one seed" not in text
    write_page(tmp_path / "page.md", [*usual, *[row for row in better if row["seed"] == 0]], {}, (0, 1))
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "| better | 1 | **+0.10 ± 0.00** |" in text and "with one seed" in text
    write_page(tmp_path / "page.md", [*usual, *better], {"max_train_steps": 8}, (0, 1), ["same"])
    assert "Not measured yet: same." in (tmp_path / "page.md").read_text(encoding="utf-8")


def test_the_summary_separates_what_is_significant_only_alone() -> None:
    clear, barely = Difference(-0.1, 0.02, 4), Difference(0.1, 0.06, 4)
    others = {f"none {number}": dict.fromkeys(MEASURED, Difference(0.0, 0.02, 4)) for number in range(18)}
    text = summary({"clear": dict.fromkeys(MEASURED, clear), "barely": dict.fromkeys(MEASURED, barely), **others})
    assert "- kept higher with: none; alone: barely (+0.10)." in text and "- kept lower with: clear (-0.10)." in text


def test_a_seed_counts_where_option_and_reference_have_all_their_runs(tmp_path: Path) -> None:
    known = {"pictures": fingerprint(draw_concept(0)), "base": base_fingerprint(EMBEDDED_BASE_FOLDER)}
    reference, partly, unpaired, without = VARIANTS[:4]
    done = ((reference, 0), (reference, 1), (partly, 0), (unpaired, 0), (unpaired, 1), (unpaired, 2))
    for variant, seed in done:
        name = f"{variant.group}, {variant.name}, concept 0, seed {seed}"
        row = dict.fromkeys(MEASURED, 0.5)
        FinishedRuns(tmp_path).get(name, {**variant.settings, "seed": seed, **known}, partial(dict, row))
    rows, missing = measure_all(VARIANTS[:4], (0,), 3, FinishedRuns(tmp_path, at_most=0))
    assert sorted((row["option"], row["seed"]) for row in rows) == sorted(
        (variant.name, seed) for variant, seed in done if seed < 2
    )
    assert missing == [without.name]
