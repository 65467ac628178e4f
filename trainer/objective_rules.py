"""Checks the settings of the objective against the capabilities of the base model."""

from families.family import ModelFamily, restoring
from settings.record import ConfigError
from settings.sections.noise import NoiseSection
from settings.sections.objective import ObjectiveSection
from settings.sections.validation import EVALUATION_SETTINGS
from settings.training import TrainingConfig
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
         f"loss_weighting: debiased only supports ε-prediction, but {base} predicts v; set min_snr"),
        (objective.loss_weighting == "debiased" and kind == "edm",
         f"loss_weighting: debiased only supports ε-prediction, but the noise schedule of {base} is EDM's; leave it "
         "out"),
        (bool(coarse) and kind == "flow",
         f"{coarse}: {base} is trained with flow matching, which learns brightness without it; leave it out"),
        (bool(coarse) and process.zero_terminal_snr and kind != "flow",
         f"{coarse}: the noise schedule of {base} ends in pure noise, so brightness is learned without it; leave it "
         "out"),
        (noise.input_perturbation > 0 and kind == "flow",
         f"input_perturbation: only supports ε- and v-prediction, but {base} is trained with flow matching; leave it "
         "out"),
        (noise.timestep_sampling == "shift" and kind != "flow",
         f"timestep_sampling: shift only supports flow matching, but {base} has no shift; choose uniform or "
         "logit_normal"),
        (objective.token_attention_weight > 0 and not _has_cross_attention(family),
         f"token_attention_weight: {base} has no cross-attention layers; leave it out"),
    )  # fmt: skip
    for broken, message in rules:
        if broken:
            raise ConfigError(message)


def require_restorable(config: TrainingConfig, base: str, family: ModelFamily) -> None:
    """Raises ConfigError for settings of tokens and generated images if the base model only reconstructs images."""
    if restoring(family) is None:
        return
    of_words = (
        ("trigger_word", 'set trigger_word: ""', bool(config.class_words)),
        ("num_class_images", "leave it out", config.num_class_images > 0),
        ("evaluate", "leave it out", config.evaluate == "true"),
    )
    for name, remedy, given in of_words:
        if given:
            raise ConfigError(
                f"{name}: {base} reconstructs images and has no prompts, so no tokens can be trained; {remedy}"
            )
    for name in filter(config.differs, EVALUATION_SETTINGS):
        raise ConfigError(f"{name}: {base} reconstructs images, whose samples are not scored; leave it out")


def _has_cross_attention(family: ModelFamily) -> bool:
    return any(name.endswith(f".{CROSS_ATTENTION}") for name, _ in family.denoiser.named_modules())
