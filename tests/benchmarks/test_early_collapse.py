"""Tests of the floor of benchmarks/learning/early_collapse.py: samples should be at least as similar to concept and
base as these were to each other before the training, within a tolerance."""

from benchmarks.learning.early_collapse import fell


def test_a_fall_below_either_is_named() -> None:
    before = {"step": 0, "to_concept": 0.1, "to_base": 1.0}
    assert fell([before, {"step": 10, "to_concept": 0.2, "to_base": 0.8}]) == []
    assert fell([before, {"step": 10, "to_concept": 0.0, "to_base": 0.8}]) == ["step 10: to_concept 0.000 < 0.050"]
    assert fell([before, {"step": 10, "to_concept": 0.9, "to_base": -0.1}]) == ["step 10: to_base -0.100 < 0.050"]
