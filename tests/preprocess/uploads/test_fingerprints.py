"""Tests that the search for near duplicates finds the same as a comparison of all pairs."""

import random

from hypothesis import given
from hypothesis import strategies as st

from preprocess.uploads.fingerprints import NEAR_BITS, Fingerprint, nearest_before


def by_comparing_all(hashes: list[int]) -> dict[int, int]:
    """Return the reference: for each hash the nearest earlier one within NEAR_BITS, the first of equally near ones."""
    found = {}
    for later, bits in enumerate(hashes):
        earlier = [index for index in range(later) if hashes[index] and bits]
        nearest = min(earlier, key=lambda index: ((bits ^ hashes[index]).bit_count(), index), default=None)
        if nearest is not None and (bits ^ hashes[nearest]).bit_count() <= NEAR_BITS:
            found[later] = nearest
    return found


@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(0, 9))
def test_the_same_is_found_as_by_comparing_all(seed: int, originals: int, most_changes: int) -> None:
    rng = random.Random(seed)
    plain = [rng.choice([0, 1, rng.getrandbits(256)]) for _ in range(originals)]
    hashes = [rng.choice(plain) for _ in range(30)]
    for index, bits in enumerate(hashes):
        for _ in range(rng.randint(0, most_changes)):
            bits ^= 1 << rng.randrange(256)
        hashes[index] = bits
    assert nearest_before([Fingerprint("", bits) for bits in hashes]) == by_comparing_all(hashes)
