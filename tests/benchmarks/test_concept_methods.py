"""The page of methods says what its rows say."""

from pathlib import Path

from benchmarks.concepts.methods import COMMON, CONCEPTS, MEASURED, METHODS, write_page
from settings.training import build_config


def test_the_page_has_means_and_what_changes_against_the_plain_lora(tmp_path: Path) -> None:
    rows = [
        {"method": method, "concept": concept, **{name: 0.1 * place + 0.02 * concept for name in MEASURED},
         "kB": 300.0 if place != 1 else 12.0}
        for place, method in enumerate(METHODS) for concept in CONCEPTS
    ]  # fmt: skip
    write_page(tmp_path / "methods.md", rows, 150)
    page = (tmp_path / "methods.md").read_text(encoding="utf-8")
    assert "| perfusion | 0.11 (0.10, 0.12)" in page
    assert "- perfusion, against lora, rank 8: likeness +0.10" in page and "its file is 25.0 times smaller" in page
    assert "- lora, rank 8, prompt alignment, against lora, rank 8: likeness +0.20" in page


def test_every_method_is_a_valid_configuration() -> None:
    for method in METHODS.values():
        prompts = {"target_prompts": ["a photo of TOK"]} if "prompt_alignment_weight" in method else {}
        config = build_config({**COMMON, **method, **prompts, "class_word": "figure", "max_train_steps": 150})
        assert config.adapter in ("lora", "perfusion")
