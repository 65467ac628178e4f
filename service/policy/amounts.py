"""Measures a request against the operator's limits."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from service.policy.rules import LIMITS, PICTURES, PIXELS, USUAL_PROMPTS, USUAL_UNRELATED, Limit
from settings.callers import Caller, mark_in
from settings.sections.duration import LOOKS, MOST_CONCEPTS_SCORED
from settings.training import TrainingConfig

if TYPE_CHECKING:  # it imports torch, which only the child processes of the training server need
    from service.prediction_inputs import PredictionInputs

    Record = TrainingConfig | PredictionInputs

Marks = Mapping[str, Caller | None]


def marks_of(record: "type[Record]") -> Marks:
    """Return the mark of every setting or input, None for one without a mark."""
    if issubclass(record, TrainingConfig):
        return {name: mark_in(field.metadata) for name, field in record.model_fields.items()}
    hints = get_type_hints(record, include_extras=True)
    return {name: mark_in(get_args(hint)) for name, hint in hints.items()}


def default_of(record: "Record", name: str) -> Any:
    if isinstance(record, TrainingConfig):
        return TrainingConfig.model_fields[name].default
    return record.__dataclass_fields__[name].default


def amount(record: "Record", variable: str) -> float:
    """Return the amount that the record requests of the quantity that `variable` limits."""
    limit = LIMITS[variable]
    if variable == PIXELS:
        width, height = _sides(record)
        return width * height
    if variable == PICTURES:
        return _pictures(record) if isinstance(record, TrainingConfig) else 0
    if not limit.settings or not hasattr(record, limit.settings[0]):
        return 0
    value = getattr(record, limit.settings[0])
    if value is None:
        return 0 if _means_nothing(record, limit.settings[0]) else limit.left_out
    return len(value) if isinstance(value, tuple) else value


def _sides(record: "Record") -> tuple[int, int]:
    """Return the requested sides in pixels; 0 for the base's own."""
    if isinstance(record, TrainingConfig):
        largest = record.preparation.largest_resolution or 0
        return largest, largest
    return record.width or record.height or 0, record.height or record.width or 0


def _pictures(config: TrainingConfig) -> int:
    """Return the number of images that are generated and scored.

    After training: those of each candidate, of the base model, of the selected candidate's ablations, and two sets for
    each other scored concept. During training: those of each evaluation of each concept, and of the base model.
    """
    settings = config.validation
    prompts = (len(settings.evaluation_prompts) or USUAL_PROMPTS) + (len(settings.unrelated_prompts) or USUAL_UNRELATED)
    concepts = min(MOST_CONCEPTS_SCORED, max(1, len(config.class_words)))
    candidates = settings.evaluation_checkpoints * len(settings.evaluation_scales) + 3 + 2 * (concepts - 1)
    looks = (LOOKS + 2) * concepts
    sets = candidates * config.evaluates_checkpoints + looks * config.stop_when_settled
    return sets * settings.evaluation_samples * prompts


def can_be_filled(record: "Record", limit: Limit) -> bool:
    """Whether the limit can replace a setting that has its default value."""
    if not isinstance(record, TrainingConfig) or len(limit.settings) != 1:
        return False
    (name,) = limit.settings
    return name in TrainingConfig.model_fields and getattr(record, name) == default_of(record, name)


def _means_nothing(record: "Record", name: str) -> bool:
    """Whether another setting replaces this one, which is not set."""
    if not isinstance(record, TrainingConfig):
        return False
    return (name == "keep_checkpoints" and not record.output.writes_checkpoints) or (
        name == "max_train_steps" and record.max_train_epochs is not None
    )
