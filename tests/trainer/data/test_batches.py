"""Tests of batches: they are full, have images of one size, contain every image in every epoch, and are divided between
the processes."""

from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from families.family import SizeConditioning
from trainer.data.batches import BatchStream, plan_epoch
from trainer.data.latent_cache import CachedExample, CachedView
from trainer.distributed.batch_share import Share

SIZE = SizeConditioning((64, 64), (0, 0), (64, 64))


def view_of(index: int) -> tuple[CachedView]:
    return (CachedView(torch.full((2, 1, 1), float(index)), None, SIZE),)


def examples(buckets: Sequence[tuple[int, int]], repeats: Sequence[int] | None = None) -> list[CachedExample]:
    return [
        CachedExample(view_of(index), str(index), "TOK", bucket, times, 1.0)
        for index, (bucket, times) in enumerate(zip(buckets, repeats or [1] * len(buckets), strict=True))
    ]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


some_buckets = st.lists(st.sampled_from([(64, 64), (96, 48), (48, 96)]), min_size=1, max_size=20)


@given(some_buckets, st.integers(1, 6), st.integers(0, 3))
def test_every_image_is_in_every_epoch_with_its_weight(buckets: list[tuple[int, int]], size: int, seed: int) -> None:
    data = examples(buckets)
    batches = plan_epoch(data, size, generator(seed))
    assert {len(batch.indices) for batch in batches} == {size}
    assert all(len({buckets[index] for index in batch.indices}) == 1 for batch in batches)
    seen = Counter(index for batch in batches for index in batch.indices)
    assert set(seen) == set(range(len(buckets)))
    for bucket, members in Counter(buckets).items():
        weight = sum(len(batch.indices) * batch.weight for batch in batches if buckets[batch.indices[0]] == bucket)
        assert weight == pytest.approx(members)


def test_repeats_count() -> None:
    batches = plan_epoch(examples([(64, 64)] * 3, [1, 2, 5]), 4, generator())
    assert Counter(index for batch in batches for index in batch.indices) == {0: 1, 1: 2, 2: 5}


def test_the_order_is_new_every_epoch_and_the_same_for_a_seed() -> None:
    data = examples([(64, 64)] * 12)
    orders = generator()
    first, second = plan_epoch(data, 4, orders), plan_epoch(data, 4, orders)
    assert first != second
    assert first == plan_epoch(data, 4, generator())


@given(some_buckets, st.integers(1, 3), st.integers(2, 4))
def test_processes_take_one_large_batch_in_parts(buckets: list[tuple[int, int]], size: int, processes: int) -> None:
    data = examples(buckets)
    whole = BatchStream(data, size * processes, generator(), generator(1))
    parts = [BatchStream(data, size, generator(), generator(1), Share(index, processes)) for index in range(processes)]
    for _ in range(6):
        large, taken = next(whole), [next(part) for part in parts]
        assert large.captions == [caption for batch in taken for caption in batch.captions]
        assert torch.equal(large.weights, torch.cat([batch.weights for batch in taken]))


def test_views_are_drawn_and_masks_are_filled_up() -> None:
    views = tuple(CachedView(torch.full((2, 1, 1), float(index)), None, SIZE) for index in range(3))
    masked = CachedView(torch.zeros(2, 1, 1), torch.full((1, 1, 1), 0.25), SIZE)
    data = [
        CachedExample(views, "a", "TOK", (64, 64), 1, 1.0),
        CachedExample((masked,), "b", None, (64, 64), 1, 0.5),
    ]
    stream = BatchStream(data, 2, generator(), generator(1))
    batches = [next(stream) for _ in range(40)]
    drawn = {float(batch.moments[batch.captions.index("a"), 0, 0, 0]) for batch in batches}
    assert drawn == {0.0, 1.0, 2.0}
    for batch in batches:
        assert batch.masks is not None
        seen = zip(batch.masks.flatten().tolist(), batch.weights.tolist(), strict=True)
        by_caption = dict(zip(batch.captions, seen, strict=True))
        assert by_caption == {"a": (1.0, 1.0), "b": (0.25, 0.5)}


def test_of_several_captions_one_is_drawn_each_time_and_resumed() -> None:
    data = [
        CachedExample(view_of(0), "one", "TOK", (64, 64), 1, 1.0, ("two", "three")),
        CachedExample(view_of(1), "alone", "TOK", (64, 64), 1, 1.0),
    ]
    captions = generator(2)
    stream = BatchStream(data, 2, generator(), generator(1), captions=captions)
    drawn = [next(stream).captions for _ in range(300)]
    counted = Counter(text for batch in drawn for text in batch)
    assert counted["alone"] == 300 and {"one", "two", "three"} <= set(counted)
    assert min(counted.values()) > 60
    place, state = stream.state_dict(), captions.get_state()
    expected = [next(stream).captions for _ in range(20)]
    captions.set_state(state)
    again = BatchStream(data, 2, generator(), generator(1), captions=captions)
    again.load_state_dict(place)
    assert [next(again).captions for _ in range(20)] == expected


def test_an_image_with_one_caption_draws_none() -> None:
    captions = generator(2)
    before = captions.get_state()
    stream = BatchStream(examples([(64, 64)] * 3), 2, generator(), generator(1), captions=captions)
    for _ in range(9):
        next(stream)
    assert torch.equal(captions.get_state(), before)


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_draw_the_captions_of_the_whole_batch(processes: int) -> None:
    data = [
        CachedExample(view_of(index), f"{index}", "TOK", (64, 64), 1, 1.0, (f"{index} b",) if index % 2 else ())
        for index in range(6)
    ]
    whole = BatchStream(data, 2 * processes, generator(), generator(1), captions=generator(2))
    parts = [
        BatchStream(data, 2, generator(), generator(1), Share(index, processes), generator(2))
        for index in range(processes)
    ]
    for _ in range(12):
        assert next(whole).captions == [text for part in parts for text in next(part).captions]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_weights_of_images_are_their_own_and_filling_is_apart(size: int) -> None:
    """With one image in each of three buckets, every batch is filled up with copies of one image. Each copy has the
    image's weight; `filling` makes up for the copies."""
    stream = BatchStream(examples([(64, 64), (96, 48), (48, 96)]), size, generator(), generator(1))
    batches = [next(stream) for _ in range(3)]
    assert all(batch.weights.tolist() == [1.0] * size and batch.filling == pytest.approx(1 / size) for batch in batches)
    assert all(part.filling == batch.filling for batch in batches for part in batch.split(2))
