"""Which concepts may be used for what. A setting that was chosen on a concept says nothing about others when it is
judged on that concept again."""

TUNING = tuple(range(16))
"""For choosing settings."""
REPORTING = tuple(range(1000, 1016))
"""For reporting alone: nothing may be chosen by what these show, and no other file may name one of them."""


def parse_seeds(text: str) -> tuple[int, ...]:
    """ "0-3,7" → (0, 1, 2, 3, 7)."""
    seeds: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        seeds += range(int(first), int(last or first) + 1)
    return tuple(seeds)
