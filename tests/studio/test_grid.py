"""Tests of the columns of the grid on the tab Try."""

import pytest

from studio.grid import BY_CHECKPOINT, BY_SCALE, Column, columns_of, compared_scales, pairs_of

CHOICES = [
    ("cat", "cat/weights.safetensors"),
    ("dog", "dog/weights.safetensors"),
    ("dog, step 5", "dog/checkpoints/step_000005/weights.safetensors"),
    ("dog, step 10", "dog/checkpoints/step_000010/weights.safetensors"),
    ("dog-2", "dog-2/weights.safetensors"),
]


@pytest.mark.parametrize("chosen", [CHOICES[1][1], CHOICES[2][1]])
def test_checkpoints_of_the_run_stand_in_their_order_and_its_result_is_last(chosen: str) -> None:
    found = columns_of(CHOICES, chosen, ["0.8"], BY_CHECKPOINT)
    assert [column.label for column in found] == ["dog, step 5", "dog, step 10", "dog"]
    assert found[0] == Column(CHOICES[2][1], "0.8", "dog, step 5")


def test_scales_are_of_the_chosen_file() -> None:
    assert columns_of(CHOICES, CHOICES[2][1], ["0", "1"], BY_SCALE) == [
        Column(CHOICES[2][1], "0", "0"), Column(CHOICES[2][1], "1", "1"),
    ]  # fmt: skip


@pytest.mark.parametrize("scales", [[], ["0", "1"]])
def test_checkpoints_have_one_scale(scales: list[str]) -> None:
    with pytest.raises(ValueError, match="one scale"):
        columns_of(CHOICES, CHOICES[1][1], scales, BY_CHECKPOINT)


def test_before_and_after_are_scale_0_and_the_last_that_is_given() -> None:
    assert compared_scales(["0", "0.5", "0.8"]) == ("0", "0.8")
    assert compared_scales(["recommended"]) == ("0", "recommended")
    for scales in ([], ["0"], ["1", "0.0"]):
        with pytest.raises(ValueError, match="scale other than 0"):
            compared_scales(scales)


def test_a_pair_is_a_whole_row() -> None:
    assert [pairs_of(list("abcd"[:drawn])) for drawn in (1, 2, 3)] == [[], [("a", "b")], [("a", "b")]]
    assert pairs_of(list("abcd")) == [("a", "b"), ("c", "d")]
