"""Tests that the prompts that prior matching preserves by default are not those with which evaluation and benchmarks
measure preservation.

All prompts of both are compared as sets of words: in lower case, without punctuation, articles and a medium at the
start. Two prompts are therefore the same if they differ only in these, or in the order of their words.
"""

import re
from types import SimpleNamespace

import pytest

from benchmarks.concepts.trial import UNRELATED_PROMPTS as OF_THE_CONCEPT_BENCHMARK
from evaluation.prompt_sets import prompt_set
from families.loading.sources import EMBEDDED_BASE
from settings.training import TrainingConfig
from tools.before_after import UNRELATED_PROMPTS as OF_THE_EXAMPLES
from tools.mini_base.scenes import unrelated_prompts
from trainer.losses.prior.defaults import prior_defaults
from trainer.losses.prior.kept_prompts import kept_prompts

MEDIUM = re.compile(r"^an? (photo|picture|drawing|painting|portrait) of ")
ARTICLES = {"a", "an", "the"}
OTHER_BASE = "stabilityai/stable-diffusion-xl-base-1.0"


def words(prompt: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z0-9]+", MEDIUM.sub("", prompt.strip().lower()))) - ARTICLES


def judged(base_model: str) -> list[str]:
    """The unrelated prompts of the evaluation, and on the embedded base also those of benchmarks and examples."""
    of_evaluation = [*prompt_set(base_model, "object", {"TOK": "robot"}).unrelated]
    if base_model != EMBEDDED_BASE:
        return of_evaluation
    most = max(OF_THE_CONCEPT_BENCHMARK, OF_THE_EXAMPLES)
    return of_evaluation + unrelated_prompts(most)


@pytest.mark.parametrize(("base_model", "least"), [(EMBEDDED_BASE, 22), (OTHER_BASE, 6)])
def test_no_prompt_is_both_kept_and_judged(base_model: str, least: int) -> None:
    kept, unrelated = kept_prompts(base_model), judged(base_model)
    assert len(kept) == len({words(prompt) for prompt in kept}) == 24 and len(unrelated) >= least
    assert {words(prompt) for prompt in kept} & {words(prompt) for prompt in unrelated} == set()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("a photo of a red star on a blue background", "A drawing of the red star,  on a blue background.", True),
        ("a small red star at the top", "at the top a small red star", True),
        ("a photo of a red star", "a photo of a large red star", False),
    ],
)
def test_the_comparison_sees_through_the_wording(one: str, other: str, same: bool) -> None:
    assert (words(one) == words(other)) == same


def test_a_trigger_word_that_is_a_word_of_them_leaves_those_prompts_out() -> None:
    """Prompts with the trigger word are meant to change, so they are neither preserved nor evaluated as preserved."""
    family = SimpleNamespace(teaching=None)
    config = TrainingConfig(trigger_word="moon", prior_matching_weight=1.0, base_model=OTHER_BASE)
    assert "an astronaut on the moon" in judged(OTHER_BASE)
    assert "an astronaut on the moon" not in prompt_set(OTHER_BASE, "object", {"moon": None}).unrelated
    kept = prior_defaults(config.with_values({"trigger_word": "dog"}), family)["prior_prompts"]  # type: ignore[arg-type]
    assert len(kept) == 23 and not any("dog" in prompt for prompt in kept)
