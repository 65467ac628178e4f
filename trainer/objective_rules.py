"""Checks loss and noise settings against the base's prediction type."""

from families.family import ModelFamily
from settings.record import ConfigError
from settings.sections.noise import NoiseSection
from settings.sections.objective import ObjectiveSection
from trainer.execution.attention_capture import CROSS_ATTENTION


def require_objective(objective: ObjectiveSection, noise: NoiseSection, base: str, family: ModelFamily) -> None:
    """Check the objective and noise settings. Raises ConfigError, naming the remedy, for one that does not suit this
    base.

    `base`: its name for messages.
    """
    process = family.noise_process
    kind = process.prediction_type
    coarse = "noise_offset" if noise.noise_offset > 0 else ""
    coarse = "multires_noise_iterations" if noise.multires_noise_iterations > 0 else coarse
    rules = (
        (objective.loss_weighting == "debiased" and kind == "v_prediction",
         f"loss_weighting: debiased is made for ε-prediction, and {base} predicts v; set min_snr"),
        (bool(coarse) and kind == "flow",
         f"{coarse}: {base} is trained by flow matching, which learns brightness without it; leave it out"),
        (bool(coarse) and process.zero_terminal_snr and kind != "flow",
         f"{coarse}: {base} ends in pure noise and learns brightness by that; leave it out"),
        (noise.input_perturbation > 0 and kind == "flow",
         f"input_perturbation: made for ε- and v-prediction, and {base} is trained by flow matching; leave it out"),
        (noise.timestep_sampling == "shift" and kind != "flow",
         f"timestep_sampling: shift is for flow matching, and {base} has no shift; choose uniform or logit_normal"),
        (objective.token_attention_weight > 0 and not _has_cross_attention(family),
         f"token_attention_weight: {base} has no layers of cross-attention to watch; leave it out"),
    )  # fmt: skip
    for broken, message in rules:
        if broken:
            raise ConfigError(message)


def _has_cross_attention(family: ModelFamily) -> bool:
    return any(name.endswith(f".{CROSS_ATTENTION}") for name, _ in family.denoiser.named_modules())
