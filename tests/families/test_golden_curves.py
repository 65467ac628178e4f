"""Tests that the training loop reproduces the golden curves, and that losses do not depend on micro-batches."""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from families.family import ModelFamily
from tests.families.golden_curves import (
    GOLDEN,
    STEPS,
    TOLERANCE,
    Curve,
    curve,
    curve_config,
    curve_training,
    golden_curve,
)
from tests.fast_part import slow_but
from tests.tiny_models import TINY_MODELS, load_tiny
from trainer.data.batches import LatentBatch
from trainer.trainables.trainable import Trainable


def assert_equal(measured: Curve, expected: Curve, tolerance: float) -> None:
    assert len(measured) == len(expected)
    for number, (step, golden) in enumerate(zip(measured, expected, strict=True), start=1):
        assert step == pytest.approx(golden, rel=tolerance), f"step {number}"


BEGINNING = 6
"""Steps that are compared for families that are not in WHOLE. All families have the same loop, and differences of a
family show in its first steps."""
WHOLE = ("sd3", "sdxl")
ONE_FAST = slow_but(["sd3"], TINY_MODELS)


@pytest.mark.parametrize("kind", ONE_FAST)
def test_the_curve_is_the_golden_one(kind: str, tmp_path: Path) -> None:
    expected = json.loads((GOLDEN / f"{kind}.json").read_text(encoding="utf-8"))
    assert len(expected) == STEPS
    steps = STEPS if kind in WHOLE else BEGINNING
    assert_equal(golden_curve(kind, tmp_path, steps), expected[:steps], TOLERANCE)


def test_every_family_has_a_golden_curve() -> None:
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(TINY_MODELS)


@pytest.mark.parametrize("fault", ["gradients kept", "one micro-batch used", "not averaged"])
def test_a_faulty_loop_leaves_the_golden_curve(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With each of these faults, which have occurred, the curve must leave the tolerance within two steps."""
    expected = json.loads((GOLDEN / "sd3.json").read_text(encoding="utf-8"))[:2]
    family = load_tiny("sd3", tmp_path)
    with curve_training(family, curve_config(str(tmp_path))) as training:
        training.trainer.max_train_steps = 2
        if fault == "gradients kept":
            for trainable in training.trainer.trainables:
                keep_gradients(trainable, monkeypatch)
        elif fault == "one micro-batch used":
            training.trainer.batches = every_second(training.trainer.batches)
        else:
            backward = training.trainer.accelerator.backward
            monkeypatch.setattr(training.trainer.accelerator, "backward", lambda loss: backward(loss * 2))
        faulty = curve(training)
    with pytest.raises(AssertionError):
        assert_equal(faulty, expected, TOLERANCE)


def keep_gradients(trainable: Trainable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainable.optimizer, "zero_grad", lambda set_to_none=True: None)


def every_second(batches: Iterator[LatentBatch]) -> Iterator[LatentBatch]:
    """Yield every batch twice, so that every second batch is lost."""
    for batch in batches:
        yield batch
        yield batch
        next(batches)


def halves(batches: Iterator[LatentBatch]) -> Iterator[LatentBatch]:
    """Split each batch into micro-batches of one image."""
    for batch in batches:
        ends = list(pairwise(range(len(batch.captions) + 1)))
        for start, end in ends:
            part = slice(start, end)
            masks = None if batch.masks is None else batch.masks[part]
            yield LatentBatch(
                batch.moments[part],
                batch.captions[part],
                batch.concepts[part],
                batch.sizes[part],
                masks,
                batch.weights[part],
            )


def routed(family: ModelFamily, folder: Path, *, split: bool) -> Curve:
    """Return the curve of four steps of two images each, as one batch or as two micro-batches of the same images."""
    config = curve_config(str(folder), gradient_accumulation_steps=2 if split else 1, max_train_steps=4)
    with curve_training(family, config) as training:
        if split:
            training.trainer.batches = halves(training.trainer.batches)
        return curve(training)


@pytest.mark.parametrize("kind", ["sd3", pytest.param("sdxl", marks=pytest.mark.slow)])
def test_two_micro_batches_of_one_are_one_batch_of_two(kind: str, tmp_path: Path) -> None:
    family = load_tiny(kind, tmp_path)
    assert_equal(routed(family, tmp_path, split=True), routed(family, tmp_path, split=False), 1e-4)
