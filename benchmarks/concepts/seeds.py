"""Seeds for tuning and for reporting. A setting that was chosen using a concept must not be evaluated on that
concept."""

TUNING = tuple(range(16))
"""Seeds for choosing settings."""
REPORTING = tuple(range(1000, 1016))
"""Seeds for reporting only: no setting may be chosen by their results, and no other file may contain one of them."""


def parse_seeds(text: str) -> tuple[int, ...]:
    """ "0-3,7" → (0, 1, 2, 3, 7)."""
    seeds: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        seeds += range(int(first), int(last or first) + 1)
    return tuple(seeds)
