"""Estimates as lines of text."""

from studio import texts
from studio.estimates.duration import Duration

HOUR = 3600


def time_line(duration: Duration) -> str:
    """Return a line on the time, and the run that it is estimated from."""
    steps, measure, seconds = duration.plan.steps, duration.measure, duration.seconds
    if measure is None or seconds is None:
        return texts.TIME_UNKNOWN.format(steps=steps)
    other = measure.pace.other_seconds
    return texts.TIME.format(
        time=clock(seconds),
        steps=steps,
        pace=f"{measure.pace.seconds_per_step:.3g}",
        other=texts.OTHER_UNKNOWN if other is None else texts.OTHER_TIME.format(time=clock(other)),
        run=measure.run,
        differing=texts.DIFFERING.format(names=", ".join(measure.differing)) if measure.differing else "",
    )


def cost_line(duration: Duration, price: float | None) -> str | None:
    """Return a line on the cost at a price an hour; None without a price."""
    if not price:
        return None
    if duration.seconds is None:
        return texts.COST_UNKNOWN
    return texts.COST.format(cost=f"{duration.seconds / HOUR * price:.2f}", price=f"{price:g}")


def clock(seconds: float) -> str:
    """Return hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
