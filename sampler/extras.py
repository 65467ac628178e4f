"""Loads additional models of a request, such as refiner and safety checker."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Extras:
    """Additional models. `refiner`, `safety_checker`: hub ids or folders, None for none.

    `refiner_start`: the fraction of the noise schedule, in (0, 1), after which the refiner denoises.
    """

    refiner: str | None = None
    refiner_start: float = 0.8
    safety_checker: str | None = None


NO_EXTRAS = Extras()
