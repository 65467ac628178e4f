"""Rules for the settings of each kind of adapter."""

from collections.abc import Callable

from settings.composed import ComposedSections
from settings.sections.adapter import LORAS, PARTS_OF_WEIGHTS
from settings.sections.optimization import BY_ROWS, PRODIGY, PRODIGY_RATES
from settings.sections.validation import EVALUATION_SETTINGS

WITHOUT_CONTROLNET = (
    "prior_matching_weight", "prompt_alignment_weight", "adapter_l1_weight", "token_attention_weight",
    "token_norm_weight", "token_covariance_weight", "token_retraction", "train_existing_tokens", "num_class_images",
    "tokens_first", "tokens_until", "image_embedding_share", *EVALUATION_SETTINGS,
)  # fmt: skip
"""Settings of parts that the training of a ControlNet does not change: the base model, its tokens, and other inputs;
and of the evaluation, which does not generate images with conditions."""

READ_AS_LATENTS = ("super_resolution", "files")
"""Values of `control` with colour images, whose content an image encoder's latents represent."""
BASE_LEFT_ALONE = ("lora", "rslora", "none")
"""Adapters that need a base weight only in its own layer's forward pass, neither training nor reading it elsewhere."""


def _adapter_rule(config: ComposedSections) -> None:
    if config.adapter == "full" and config.mixed_precision == "fp16":
        raise ValueError("adapter: full does not support mixed_precision: fp16; set mixed_precision: bf16, or no")
    if config.adapter == "full" and config.learning_rate is None and config.optimizer not in PRODIGY:
        raise ValueError("adapter: full has no default learning_rate; set one far below a LoRA's, usually 1e-5")
    if config.adapter == "none" and config.resolved_token_learning_rate == 0:
        raise ValueError("adapter: none with token_learning_rate: 0 trains nothing; change one of them")
    if config.adapter == "none" and config.prior_matching_weight > 0:
        raise ValueError(
            "prior_matching_weight has no effect with adapter: none, which does not change the base model; leave it out"
        )
    if config.prompt_alignment_weight > 0 and config.adapter in ("none", "t-lora"):
        raise ValueError(
            f"prompt_alignment_weight does not work with adapter: {config.adapter}; choose lora, or leave it out"
        )
    if config.adapter_l1_weight > 0 and not config.has_low_rank_adapter:
        raise ValueError(
            f"adapter_l1_weight has no effect with adapter: {config.adapter}; choose lora, or leave it out"
        )
    if config.adapter_l1_weight > 0 and config.lora_init in PARTS_OF_WEIGHTS:
        raise ValueError(
            f"adapter_l1_weight does not work with lora_init: {config.lora_init}, whose initial adapter is a part of "
            "the base weight; leave one of them out"
        )
    if config.lora_plus_ratio != 1 and config.adapter not in LORAS:
        raise ValueError(f"lora_plus_ratio has no effect with adapter: {config.adapter}; choose lora, or leave it out")
    if config.adapter == "oft" and config.optimizer == "muon":
        raise ValueError("optimizer: muon needs weight matrices, and adapter: oft trains angles; choose adamw")
    low, high = PRODIGY_RATES
    rate = config.text_encoder_learning_rate
    if config.optimizer in PRODIGY and rate is not None and not low <= rate <= high:
        raise ValueError(
            f"text_encoder_learning_rate: {rate:g} is far from 1, and {config.optimizer} multiplies it by the rate "
            f"that it estimates; leave it out, or set {low:g} to {high:g}"
        )


def _model_rule(config: ComposedSections) -> None:
    if config.save_model == "none":
        return
    if not config.trains_base:
        raise ValueError(
            f"save_model has no effect with adapter: {config.adapter}; leave it out, and merge the result into the "
            "base model with python -m artifact merge --onto"
        )
    if config.vae is not None:
        raise ValueError("save_model writes the base model's own VAE, not the one of vae; leave one of them out")


def _controlnet_rule(config: ComposedSections) -> None:
    if not config.is_controlnet:
        for name in ("control", "control_dropout", "controlnet_blocks", "controlnet_bottleneck"):
            if config.differs(name):
                raise ValueError(f"{name} has no effect with adapter: {config.adapter}; set adapter: controlnet")
        return
    if config.control == "none":
        raise ValueError(
            "adapter: controlnet needs control: canny, grey, scribble, inpainting, super_resolution, faces or files"
        )
    if config.controlnet_bottleneck == "large" and config.control not in READ_AS_LATENTS:
        raise ValueError(
            f"controlnet_bottleneck: large needs control: {READ_AS_LATENTS[0]} or {READ_AS_LATENTS[1]}, not "
            f"{config.control}; change control, or leave it out"
        )
    blocks = config.controlnet_blocks
    if list(blocks) != sorted({block for block in blocks if block >= 0}):
        raise ValueError(
            f"controlnet_blocks: {list(blocks)} must be different block indices in ascending order, from 0"
        )
    unused = [name for name in WITHOUT_CONTROLNET if config.differs(name)]
    if unused:
        raise ValueError(
            f"{unused[0]} has no effect with adapter: controlnet, which trains only the ControlNet; leave it out"
        )
    if config.loss_type == "dco":
        raise ValueError(
            "loss_type: dco compares the model with the base model, which a ControlNet does not change; choose mse or "
            "huber"
        )
    if config.evaluate == "true":
        raise ValueError(
            "evaluate: true has no effect with adapter: controlnet; set validation_steps, and compare its samples"
        )


def _collapse_rule(config: ComposedSections) -> None:
    given = "collapse_guard: lower" if config.collapse_guard == "lower" else ""
    given = "collapse_limit" if config.differs("collapse_limit") else given
    if not given:
        return
    if not config.has_low_rank_adapter:
        raise ValueError(
            f"{given} has no effect with adapter: {config.adapter}, whose change is not measured; leave it out, or "
            "choose lora"
        )
    if config.init_weights is not None:
        raise ValueError(
            f"{given} has no effect with init_weights, which change the base model before the first step; leave one "
            "of them out"
        )
    if config.collapse_guard == "off":
        raise ValueError(f"{given} has no effect with collapse_guard: off; leave one of them out")


def _perfusion_rule(config: ComposedSections) -> None:
    if not config.is_perfusion:
        return
    without = [concept.trigger_word for concept in config.all_concepts if not concept.class_word]
    if without:
        raise ValueError(
            f"adapter: perfusion needs the class_word of {without[0] or 'each concept'}, whose keys it uses; set it"
        )
    if not all(concept.trigger_word for concept in config.all_concepts):
        raise ValueError("adapter: perfusion trains the values of the trigger_word, and one is empty; set it")
    if "num_tokens" in config.model_fields_set and config.num_tokens != 1:
        raise ValueError("num_tokens: adapter: perfusion has one token per trigger word; set 1, or leave it out")
    if config.compile != "never":
        raise ValueError(
            "adapter: perfusion cannot be compiled, because it changes layers inside the compiled blocks; set "
            "compile: never"
        )


def _sharding_rule(config: ComposedSections) -> None:
    if not config.shard_base:
        return
    if config.trains_base:
        _require_updates_of_rows(config)
    else:
        _require_base_left_alone(config, "shard_base", "leave shard_base out (accelerate launch --multi_gpu)")
    if config.compile != "never":
        raise ValueError("shard_base: sharded blocks cannot be compiled; set compile: never")


def _require_updates_of_rows(config: ComposedSections) -> None:
    if config.optimizer not in BY_ROWS:
        raise ValueError(
            f"shard_base: with adapter: full each process updates some rows of every weight, which {config.optimizer} "
            "does not support; choose optimizer: adamw or adamw_8bit, or leave shard_base out (accelerate launch "
            "--multi_gpu)"
        )
    if config.evaluate == "true":
        raise ValueError(
            "evaluate: true applies checkpoints to whole weights, which no process has with shard_base and adapter: "
            "full; leave one of them out"
        )


def _storage_rule(config: ComposedSections) -> None:
    stored = config.base_precision in ("fp8", "int8", "nf4")
    setting = f"base_precision: {config.base_precision}" if stored else "offload: always"
    if not stored and config.offload != "always":
        return
    _require_base_left_alone(config, setting)
    if config.shard_base:
        raise ValueError(f"{setting} does not work with shard_base, which shards the weights as loaded; leave one out")


def _training_adapter_rule(config: ComposedSections) -> None:
    if config.training_adapter is None:
        return
    _require_base_left_alone(config, "training_adapter")
    if config.lora_init in PARTS_OF_WEIGHTS:
        raise ValueError(f"training_adapter: lora_init: {config.lora_init} takes a part out of the base; leave one out")
    if config.shard_base:
        raise ValueError(
            "training_adapter does not work with shard_base, which shards the base's layers; leave one out"
        )


def _require_base_left_alone(config: ComposedSections, setting: str, remedy: str = "leave it out") -> None:
    if config.adapter not in BASE_LEFT_ALONE:
        raise ValueError(
            f"{setting}: adapter: {config.adapter} reads or changes whole weights of the base; choose lora or rslora, "
            f"or {remedy}"
        )


ADAPTER_RULES: tuple[Callable[[ComposedSections], None], ...] = (
    _adapter_rule,
    _model_rule,
    _controlnet_rule,
    _collapse_rule,
    _perfusion_rule,
    _sharding_rule,
    _storage_rule,
    _training_adapter_rule,
)
