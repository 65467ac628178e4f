"""Arguments of diffusers' training scripts, and the field names of SDXL guides that wrap them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from settings.importing.translation import (
    Imported,
    Rule,
    Translation,
    choice,
    left_out,
    place,
    same,
    switch,
    switched,
    usual,
    whole,
)
from settings.importing.vocabulary import (
    EPOCHS,
    OPTIMIZERS,
    SCHEDULES,
    precision,
    trackers,
    without_idle_fields,
    workers,
)
from settings.record import ConfigError

ATTENTION = {"to_k", "to_q", "to_v", "to_out.0"}
DEFAULTS: Mapping[str, Any] = {
    "trigger_word": "", "captioner": "none", "caption_dropout": 0.0, "rank": 4, "loss_weighting": "uniform",
    "lr_scheduler": "constant", "lr_warmup_steps": 0, "aspect_ratio_bucketing": False,
}  # fmt: skip
"""The scripts' defaults that differ from the defaults here."""
CHECKPOINTING_STEPS = 500
"""The scripts' default, which is not imported: it would select the best of several checkpoints."""
PLACEHOLDER, TOKENS_UNTIL = "TOK", 0.5
"""Defaults of the scripts that train new tokens (train_text_encoder_ti)."""
OF_TOKENS = {
    "num_new_tokens_per_abstraction": "num_tokens", "initializer_concept": "token_init_words",
    "train_text_encoder_ti_frac": "tokens_until", "text_encoder_lr": "token_learning_rate",
}  # fmt: skip
TOKEN = "access tokens are not read from files; set the environment variable HF_TOKEN"


def _targets(translation: Translation, name: str, value: Any) -> None:
    given = value if isinstance(value, list) else str(value).replace(",", " ").split()
    layers = [str(each) for each in given]
    if set(layers) != ATTENTION:
        raise ConfigError(
            f"{name}: {' '.join(layers)} has no equivalent; leave it out, and set lora_targets or lora_target_regex"
        )
    translation.values["lora_targets"] = "attention"


def _image_column(translation: Translation, name: str, value: Any) -> None:
    """`file_name` is metadata.jsonl's column of file names, which is detected without a setting."""
    if value != "file_name":
        translation.values["image_column"] = value


RULES: Mapping[str, Rule] = {
    **{name: same("base_model") for name in ("pretrained_model_name_or_path", "model_name", "base_model_name")},
    **{name: place for name in ("train_data_dir", "instance_data_dir", "data_dir")},
    **{name: same("train_batch_size") for name in ("batch_size", "per_device_train_batch_size")},
    **{name: same("rank") for name in ("lora_rank", "lora_r")},
    **{name: same("adapter_dropout") for name in ("lora_dropout", "dropout")},
    **{name: _targets for name in ("target_modules", "lora_target_modules", "lora_layers")},
    **{name: same("keep_checkpoints") for name in ("save_total_limit", "checkpoints_total_limit")},
    **{name: same("checkpointing_epochs") for name in ("checkpointing_epochs", "save_every_n_epochs")},
    **{name: left_out(TOKEN) for name in ("hub_token", "hf_token")},
    "resume_from_checkpoint": left_out("use --resume latest to continue a run"),
    "lora_alpha": same("alpha"),
    "save_steps": same("checkpointing_steps"),
    "adam_weight_decay": same("weight_decay"),
    "gradient_accumulation": same("gradient_accumulation_steps"),
    "image_column": _image_column,
    "center_crop": switch("crop", "centre"),
    "random_flip": switch("horizontal_flip", True),
    "gradient_checkpointing": switch("gradient_checkpointing", "always"),
    "optimizer": choice("optimizer", OPTIMIZERS),
    "lr_scheduler": choice("lr_scheduler", SCHEDULES),
    "dataloader_num_workers": workers,
    "use_dora": switch("adapter", "dora"),
    "adam_beta1": usual((0.9,), "AdamW's betas are 0.9 and 0.999"),
    "adam_beta2": usual((0.999,), "AdamW's betas are 0.9 and 0.999"),
    "adam_epsilon": usual((1e-8, "1e-08", "1e-8"), "AdamW's epsilon is 1e-8"),
    "proportion_empty_prompts": same("caption_dropout"),
    "validation_epochs": left_out(EPOCHS),
    "validation_steps": same("sample_steps"),
    "guidance_scale": left_out("there it is FLUX's input in training, which is 1 here; here it is that of samples"),
    "offload": left_out("text encoders and VAE are removed from the GPU; here it is for the denoiser's weights"),
    "mixed_precision": precision,
    "prior_generation_precision": left_out("class images are generated in the base model's precision"),
    "cache_latents": switch("latent_cache", "memory"),
    "enable_xformers_memory_efficient_attention": switch("attention", "xformers"),
    "report_to": trackers,
    "logging_dir": left_out("logs are written to the output folder"),
    "cache_dir": left_out("the environment variable HF_HOME sets the folder of downloads"),
    "vae_name": same("vae"),
    "pretrained_vae_model_name_or_path": same("vae"),
    "revision": same("base_revision"),
    "variant": left_out("weights are loaded in the precision of the training"),
    "local_rank": left_out("accelerate launch sets it"),
    "max_sequence_length": left_out("each base model has its own maximum length of prompts"),
}  # fmt: skip


def from_diffusers(given: Mapping[str, Any], known: frozenset[str]) -> Imported:
    """Translate arguments by name. Raises ConfigError for arguments that would train something else here."""
    translation = Translation(given, known)
    for part in (_captions, _tokens, _class_images, _duration, _rates, _weighting, _publishing, _checkpoints):
        part(translation)
    translation.apply(RULES)
    without_idle_fields(translation)
    return translation.imported(DEFAULTS)


def _captions(translation: Translation) -> None:
    """`instance_prompt` is the caption of every image."""
    prompt = translation.take("instance_prompt")
    if prompt is None:
        return
    if _trains_tokens(translation):
        translation.note("instance_prompt", "is left out: images without a caption get one with the trigger word")
        return
    translation.values["caption_prefix"] = prompt
    translation.note(
        "instance_prompt", "is the whole caption of images without a caption, and is added before other captions"
    )


def _trains_tokens(translation: Translation) -> bool:
    return "token_abstraction" in translation or switched("ti", translation.peek("train_text_encoder_ti", False))


def _tokens(translation: Translation) -> None:
    """New tokens for a word of the captions. `text_encoder_lr` is their rate, otherwise that of the text encoders;
    without either, these fields have no effect."""
    trained = _trains_tokens(translation)
    word = translation.take("token_abstraction", PLACEHOLDER)
    translation.take("train_text_encoder_ti")
    given = {setting: value for name, setting in OF_TOKENS.items() if (value := translation.take(name)) is not None}
    if trained:
        translation.values |= {"trigger_word": word, "prior_matching_weight": 0.0, "tokens_until": TOKENS_UNTIL} | given
        if str(translation.peek("optimizer")).lower() == "prodigy":
            translation.values["token_optimizer"] = "prodigy"
    elif "token_learning_rate" in given and translation.take_switch("train_text_encoder"):
        encoders = {"train_text_encoder": True, "text_encoder_learning_rate": given["token_learning_rate"]}
        translation.values |= encoders


def _class_images(translation: Translation) -> None:
    """Prior preservation. Its fields have no effect without the switch."""
    fields = {name: translation.take(name) for name in ("class_data_dir", "class_prompt", "num_class_images")}
    weight = translation.take("prior_loss_weight")
    if not translation.take_switch("with_prior_preservation"):
        return
    if fields["class_data_dir"] is not None and Path(str(fields["class_data_dir"])).is_dir():
        translation.values["preservation_data"] = fields["class_data_dir"]
    else:
        translation.values["num_class_images"] = fields["num_class_images"] or 100
        if fields["class_prompt"] is not None:
            translation.values["class_prompt"] = fields["class_prompt"]
    if weight is not None:
        translation.values["preservation_weight"] = weight


def _duration(translation: Translation) -> None:
    """Steps override epochs in the scripts."""
    names = ("num_train_epochs", "num_epochs", "epochs", "max_train_epochs")
    epochs = [value for name in names if (value := translation.take(name)) is not None]
    if "max_train_steps" in translation:
        translation.values["max_train_steps"] = translation.take("max_train_steps")
    elif epochs:
        translation.values["max_train_epochs"] = epochs[0]


def _rates(translation: Translation) -> None:
    if translation.take_switch("use_8bit_adam"):
        translation.values["optimizer"] = OPTIMIZERS["adamw8bit"]
        optimizer = str(translation.take("optimizer", "adamw"))
        if optimizer.lower() != "adamw":
            raise ConfigError(f"use_8bit_adam: does not work with optimizer: {optimizer}; leave one of them out")
    if translation.take_switch("scale_lr"):
        translation.values["scale_lr"] = True
    if (rate := translation.take("learning_rate")) is not None:
        translation.values["learning_rate"] = rate
    warmup = translation.take_number("lr_warmup_steps", 0)
    if not warmup:
        return
    if translation.peek("lr_scheduler", "constant") == "constant":
        translation.note("lr_warmup_steps", "is left out: in the scripts, lr_scheduler constant has no warm-up")
    else:
        translation.values["lr_warmup_steps"] = whole(warmup)


def _checkpoints(translation: Translation) -> None:
    """A limit of checkpoints that are written at the scripts' default interval."""
    limits = ("save_total_limit", "checkpoints_total_limit")
    intervals = ("checkpointing_steps", "save_steps", "checkpointing_epochs", "save_every_n_epochs")
    if any(name in translation for name in limits) and not any(name in translation for name in intervals):
        translation.values["checkpointing_steps"] = CHECKPOINTING_STEPS


def _weighting(translation: Translation) -> None:
    gamma = translation.take_number("snr_gamma")
    if gamma is not None and gamma > 0:
        translation.values |= {"loss_weighting": "min_snr", "min_snr_gamma": whole(gamma)}


def _publishing(translation: Translation) -> None:
    folder, name = translation.take("output_dir"), translation.take("hub_model_id")
    if folder is not None:
        translation.output = Path(str(folder))
    value = translation.take("push_to_hub", False)
    if isinstance(value, str) and "/" in value:
        translation.values["push_to_hub"] = value
    elif switched("push_to_hub", value) and name is None:
        translation.note("push_to_hub", "is left out: hub_model_id is missing; set it to the repository, as owner/name")
    elif name is not None:
        translation.values["push_to_hub"] = name
