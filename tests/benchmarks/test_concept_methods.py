"""Tests of the pages on methods, two concepts, alignment and merging, of their settings, and of measuring bleeding."""

from pathlib import Path

import pytest
import torch

from benchmarks.concepts import alignment, merging, together
from benchmarks.concepts.lottery import draw_concept
from benchmarks.concepts.measures import bleeding, ground_of
from benchmarks.concepts.methods import COMMON, CONCEPTS, MEASURED, METHODS, write_page
from benchmarks.sections import replace_section
from settings.training import build_config


def test_the_page_has_means_and_what_changes_against_the_plain_lora(tmp_path: Path) -> None:
    rows = [
        {"method": method, "concept": concept, **{name: 0.1 * place + 0.02 * concept for name in MEASURED},
         "kB": 300.0 if place != 1 else 12.0}
        for place, method in enumerate(METHODS) for concept in CONCEPTS
    ]  # fmt: skip
    write_page(tmp_path / "methods.md", rows, 150)
    page = (tmp_path / "methods.md").read_text(encoding="utf-8")
    assert "| perfusion | 0.21 (0.18, 0.20, 0.22, 0.24)" in page
    assert "- perfusion, against lora, the defaults: likeness +0.10" in page
    assert "its file is 25.0 times smaller" in page
    assert "- lora, prompt alignment, against lora, the defaults: likeness +0.20" in page


def test_every_method_is_a_valid_configuration() -> None:
    for method in METHODS.values():
        prompts = {"target_prompts": ["a photo of TOK"]} if "prompt_alignment_weight" in method else {}
        config = build_config({**COMMON, **method, **prompts, "class_word": "figure", "max_train_steps": 150})
        assert config.adapter in ("lora", "perfusion")


def test_sections_are_replaced_where_they_stand_and_others_are_kept(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    for heading, text in (("One", "first"), ("Two", "second"), ("One", "anew\n")):
        replace_section(page, "Title", heading, text)
    assert page.read_text(encoding="utf-8") == "# Title\n\n## One\n\nanew\n\n## Two\n\nsecond\n"


def test_bleeding_is_0_for_own_pictures_and_1_halfway_to_the_other() -> None:
    own = torch.nn.functional.normalize(torch.tensor([[1.0, 0.1, 0.0], [1.0, -0.1, 0.0]]), dim=1)
    other = torch.nn.functional.normalize(torch.tensor([[0.0, 0.1, 1.0], [0.0, -0.1, 1.0]]), dim=1)
    middle = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0, 1.0]]), dim=1)
    assert bleeding(middle, own, other) == pytest.approx(1.0)
    assert abs(bleeding(torch.tensor([[1.0, 0.0, 0.0]]), own, other)) < 0.03
    assert bleeding(torch.tensor([[0.0, 0.0, 1.0]]), own, other) == pytest.approx(2.0, abs=0.03)


def test_two_concepts_have_a_section_and_valid_settings(tmp_path: Path) -> None:
    rows = [
        {"method": method, "concepts": pair, **dict.fromkeys(together.MEASURED, 0.5 + place), "kB": 10.0 + 90 * place}
        for place, method in enumerate(together.METHODS) for pair in ("4 and 5", "0 and 1")
    ]  # fmt: skip
    together.write_section(tmp_path / "page.md", rows, 300, {"figure": (0.024, 0.61)})
    page = " ".join((tmp_path / "page.md").read_text(encoding="utf-8").split())
    assert "pair of tuning concepts (4 and 5; 0 and 1)" in page
    assert "figure: 2 % and 61 %." in page
    assert "Compared with `lora, the defaults`, Perfusion's file is 10 times smaller" in page
    assert "mixes its concepts no more than the LoRA; kept -1.00, likeness -1.00" in page
    assert "Compared with `lora, cross-attention-kv`, Perfusion's file is 19 times smaller" in page
    told = [{"trigger_word": word, "class_word": "figure", "folder": word} for word in together.TRIGGERS]
    for method in together.METHODS.values():
        build_config({**together.COMMON, **method, "concepts": told, "max_train_steps": 300})


def test_pairs_are_named_on_the_command_line() -> None:
    runs = list(together.planned([together.parse_pair("4,5"), together.parse_pair("0,1")], 3))
    assert [run.name for run in runs[:: len(together.METHODS)]] == [
        "perfusion, concepts 4 and 5",
        "perfusion, concepts 0 and 1",
    ]
    assert {run.settings["max_train_steps"] for run in runs} == {3}
    with pytest.raises(ValueError, match="too many values"):
        together.parse_pair("4,5,6")


def test_alignment_trains_pictures_on_one_ground_and_asks_for_all(tmp_path: Path) -> None:
    concept, shown = draw_concept(0), alignment.on_one_ground(0)
    assert set(shown.captions) == {"a photo of {trigger}"} and shown.grounds == concept.grounds
    assert len(shown.pictures) == len(shown.captions) == len(set(map(id, shown.pictures)))
    assert {ground_of(picture) for picture in shown.pictures} == {concept.grounds[0]} and len(concept.grounds) > 3
    rows = [{"method": method, "concept": seed, **dict.fromkeys(MEASURED, 0.5 + 0.25 * place)}
            for place, method in enumerate(alignment.METHODS) for seed in alignment.CONCEPTS]  # fmt: skip
    alignment.write_section(tmp_path / "page.md", rows, 500)
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "without it: likeness +0.50" in page and "half as many steps: likeness +0.25" in page


@pytest.mark.parametrize(("pairs", "told"), [(2, "start with concat"), (3, "ziplora won in all pairs")])
def test_merging_prefers_a_mode_only_where_it_is_ahead_in_several_pairs(pairs: int, told: str, tmp_path: Path) -> None:
    row = {mode: dict.fromkeys(merging.MEASURES, 0.5 + 0.1 * (mode == "ziplora"))
           for mode in ("subject alone", "style alone", *merging.MODES)}  # fmt: skip
    merging.write_page(tmp_path / "merging.md", [row] * pairs, 80)
    page = " ".join((tmp_path / "merging.md").read_text(encoding="utf-8").split())
    assert f"ziplora {pairs}, closed-form 0" in page and told in page
