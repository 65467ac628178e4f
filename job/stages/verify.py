"""Verify stage: applies the written file to the base model and compares it with the trained model."""

from collections.abc import Generator, Iterator

from job.controlnet.verification import verify_controlnet
from job.progress import Progress
from job.report.metrics import steps_done
from job.stage import Job
from job.verification.verify import RELATIVE_TOLERANCE, Verification
from job.verification.verify import verify as compare
from settings.sections.optimization import PRODIGY
from trainer.adapters.adapter import Adapter
from trainer.distributed.on_every_rank import AdapterOnEveryRank
from trainer.trainables.denoiser import DENOISER_WEIGHTS
from trainer.trainables.part import Parts

SENSIBLE_STEPS = 100
"""Smallest useful number of steps; fewer have no visible effect with any base model. The default is 500 or more."""


def verify(job: Job) -> Generator[Progress, None, None]:
    """Set `verification`."""
    yield job.progress("verifying the artifact")
    job.verification = _verification(job)
    steps = steps_done(job.output.metrics, job.training.trainer.max_train_steps)
    minutes = job.config.max_train_minutes
    for warning in verification_warnings(job.verification, job.config.optimizer, steps, minutes):
        yield job.progress(warning, 1.0, warning=True)
    yield job.progress(f"verified: {_verified(job.verification)}", 1.0)


def _verified(found: Verification) -> str:
    if found.difference > RELATIVE_TOLERANCE:
        return "the file contains the trained weights; their effect is below the precision of the base model"
    return f"the file reproduces the trained model (relative difference {found.difference:.1e})"


def _verification(job: Job) -> Verification:
    """Verify the artifact; for a ControlNet its folder, if there is one, and its file."""
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
    """Return warnings about a valid file without effect, or with untrained layers. `steps`: number of steps done.
    `minutes`: the time limit."""
    if not found.learned:
        finds = "" if optimizer not in PRODIGY else f", because {optimizer} estimates its rate first"
        yield (
            f"the training had no visible effect after {_counted(steps)}{finds}; use at least "
            f"{SENSIBLE_STEPS} ({'max_train_steps' if minutes is None else f'max_train_minutes is {minutes:g}'})"
        )
    elif found.untrained:
        yield (
            f"{found.untrained} of {found.layers} layers were never trained, such as {found.example}: they had no "
            "gradient in any step. Cross-attention has none with empty captions; check that the images have captions."
        )


def _counted(steps: int) -> str:
    return "1 step" if steps == 1 else f"{steps} steps"
