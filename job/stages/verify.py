"""Verify stage: reads the file back onto the base and compares."""

from collections.abc import Generator, Iterator

from job.controlnet.verification import verify_controlnet
from job.progress import Progress
from job.stage import Job
from job.verification.verify import RELATIVE_TOLERANCE, Verification
from job.verification.verify import verify as compare
from settings.sections.optimization import PRODIGY
from trainer.adapters.adapter import Adapter
from trainer.distributed.on_every_rank import AdapterOnEveryRank
from trainer.trainables.denoiser import DENOISER_WEIGHTS
from trainer.trainables.part import Parts

SENSIBLE_STEPS = 100
"""Fewer teach nothing on any base; the default is 500 and more."""


def verify(job: Job) -> Generator[Progress, None, None]:
    """Set `verification`."""
    yield job.progress("verifying the artifact")
    job.verification = _verification(job)
    steps, minutes = job.training.trainer.max_train_steps, job.config.max_train_minutes
    for warning in verification_warnings(job.verification, job.config.optimizer, steps, minutes):
        yield job.progress(warning, 1.0, warning=True)
    yield job.progress(f"verified: {_verified(job.verification)}", 1.0)


def _verified(found: Verification) -> str:
    if found.difference > RELATIVE_TOLERANCE:
        return "the file holds what was trained; what it does is less than the base's precision shows"
    return f"the file does what the training did (relative difference {found.difference:.1e})"


def _verification(job: Job) -> Verification:
    """Of the artifact; or of the ControlNet's folder, where it has one, and then of its file."""
    given = job.family, job.probe, job.base_prediction, job.trained_prediction
    if job.controlnet_state is None:
        return compare(job.output.weights, *given, job.artifact, _sharded(job.training.parts))
    if job.output.controlnet.is_dir():
        verify_controlnet(job.output.controlnet, *given, job.controlnet_state)
    return verify_controlnet(job.output.weights, *given, job.controlnet_state)


def _sharded(parts: Parts) -> AdapterOnEveryRank | None:
    if DENOISER_WEIGHTS.name not in parts:
        return None
    tuned = parts[DENOISER_WEIGHTS.name]
    return tuned.on_every_rank if isinstance(tuned, Adapter) else None


def verification_warnings(
    found: Verification, optimizer: str, steps: int, minutes: float | None = None
) -> Iterator[str]:
    """What a whole file lacks all the same: any effect, or some layers'. `steps`: those that were done. `minutes`: the
    time limit."""
    if not found.learned:
        finds = "" if optimizer not in PRODIGY else f", for {optimizer} finds its rate first"
        yield (
            f"nothing was learned yet: {_counted(steps)} did not change any image{finds}; use at least "
            f"{SENSIBLE_STEPS} ({'max_train_steps' if minutes is None else f'max_train_minutes is {minutes:g}'})"
        )
    elif found.untrained:
        yield (
            f"{found.untrained} of {found.layers} layers were never trained, such as {found.example}: no step had a "
            "gradient for them. Empty captions give cross-attention nothing to read; are there captions?"
        )


def _counted(steps: int) -> str:
    return "1 step" if steps == 1 else f"{steps} steps"
