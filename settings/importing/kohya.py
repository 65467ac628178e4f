"""Arguments of kohya's sd-scripts, and its TOML files of datasets."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from settings.importing.kohya_datasets import fields_of_datasets, is_dataset_file
from settings.importing.translation import (
    Imported,
    Rule,
    Translation,
    choice,
    left_out,
    place,
    same,
    switch,
    usual,
    whole,
)
from settings.importing.vocabulary import (
    CAPTION_FILES,
    EPOCHS,
    OPTIMIZERS,
    SAVED,
    SCHEDULER,
    SCHEDULES,
    precision,
    trackers,
)
from settings.record import ConfigError

MARKS = {"network_dim", "network_module", "network_alpha", "unet_lr", "enable_bucket", "max_data_loader_n_workers"}
"""Names that only kohya's scripts have."""
DEFAULTS: Mapping[str, Any] = {
    "trigger_word": "", "captioner": "none", "caption_dropout": 0.0, "loss_weighting": "uniform", "rank": 4,
    "max_train_steps": 1600, "train_batch_size": 1, "lr_scheduler": "constant", "lr_warmup_steps": 0,
    "aspect_ratio_bucketing": False,
}  # fmt: skip
"""The scripts' defaults that differ from the defaults here."""
OF_DATA: Mapping[str, Any] = {name: DEFAULTS[name] for name in ("trigger_word", "captioner", "caption_dropout")}
"""The same for a file that only lists datasets."""
NETWORKS = {"networks.lora": "lora"}


def _resolution(translation: Translation, name: str, value: Any) -> None:
    sides = value if isinstance(value, list) else str(value).replace(",", " ").split()
    if len({str(side) for side in sides}) != 1:
        raise ConfigError(
            f"{name}: {value} is not square; give one number, the side of a square with the area of every bucket"
        )
    translation.values["resolution"] = sides[0]


def _schedule_cycles(translation: Translation, name: str, value: Any) -> None:
    if str(translation.values.get("lr_scheduler")) == "cosine_with_restarts":
        translation.values["lr_num_cycles"] = value


RULES: Mapping[str, Rule] = {
    "pretrained_model_name_or_path": same("base_model"),
    "batch_size": same("train_batch_size"),
    "fp8_base": switch("base_precision", "fp8"),
    "train_data_dir": place,
    "image_dir": place,
    "reg_data_dir": same("preservation_data"),
    "prior_loss_weight": same("preservation_weight"),
    "network_module": choice("adapter", NETWORKS),
    "network_dim": same("rank"),
    "network_alpha": same("alpha"),
    "network_dropout": same("adapter_dropout"),
    "network_weights": same("init_weights"),
    "resolution": _resolution,
    "enable_bucket": switch("aspect_ratio_bucketing", True),
    "bucket_reso_steps": same("bucket_step"),
    "flip_aug": switch("horizontal_flip", True),
    "shuffle_caption": switch("shuffle_tags", True),
    "keep_tokens": same("keep_first_tags"),
    "caption_dropout_rate": same("caption_dropout"),
    "caption_prefix": same("caption_prefix"),
    "cache_latents": switch("latent_cache", "memory"),
    "cache_latents_to_disk": switch("latent_cache", "disk"),
    "optimizer_type": choice("optimizer", OPTIMIZERS),
    "lr_scheduler": choice("lr_scheduler", SCHEDULES),
    "lr_scheduler_num_cycles": _schedule_cycles,
    "gradient_checkpointing": switch("gradient_checkpointing", "always"),
    "mixed_precision": precision,
    "save_precision": choice("save_precision", SAVED),
    "save_every_n_steps": same("checkpointing_steps"),
    "sample_every_n_steps": same("sample_steps"),
    "ip_noise_gamma": same("input_perturbation"),
    "v_parameterization": switch("prediction_type", "v_prediction"),
    "zero_terminal_snr": switch("zero_terminal_snr", True),
    "masked_loss": switch("mask", "files"),
    "alpha_mask": switch("mask", "alpha"),
    "xformers": switch("attention", "xformers"),
    "sdpa": switch("attention", "auto"),
    "mem_eff_attn": switch("attention", "efficient"),
    "max_data_loader_n_workers": same("num_workers"),
    "huggingface_repo_id": same("push_to_hub"),
    "log_with": trackers,
    "caption_extension": usual((".txt", ".caption"), CAPTION_FILES),
    "save_model_as": usual(("safetensors",), "files are safetensors"),
    "clip_skip": usual((1, 2), "each base model uses the layer that it was trained with"),
    "max_token_length": left_out("the text encoders have 77 positions"),
    "color_aug": left_out("set color_jitter and augmented_views instead"),
    "save_every_n_epochs": same("checkpointing_epochs"),
    "sample_every_n_epochs": left_out(EPOCHS),
    "min_bucket_reso": left_out("aspect ratios from 1:4 to 4:1 are trained, all with the same area"),
    "max_bucket_reso": left_out("aspect ratios from 1:4 to 4:1 are trained, all with the same area"),
    "bucket_no_upscale": left_out("small images are trained at a smaller size by default"),
    "sample_prompts": left_out("write the prompts into validation_prompts"),
    "sample_sampler": left_out(SCHEDULER),
    "logging_dir": left_out("logs lie in the output folder"),
    "persistent_data_loader_workers": left_out("images are prepared before training"),
    "no_half_vae": left_out("a VAE that needs fp32 runs in fp32"),
    "lowram": left_out("weights are loaded directly to the device"),
}  # fmt: skip


def is_kohya(given: Mapping[str, Any]) -> bool:
    """Whether the fields include names of kohya's scripts, or its lists of datasets."""
    return bool(MARKS & given.keys()) or is_dataset_file(given)


def from_kohya(given: Mapping[str, Any], known: frozenset[str]) -> Imported:
    """Translate arguments, a file of datasets, or both in one. Raises ConfigError for fields that would train something
    else here."""
    arguments = {name: value for name, value in given.items() if name not in ("datasets", "general")}
    fields = fields_of_datasets(given.get("datasets", []), given.get("general", {}))
    translation = Translation(fields | arguments, known)
    for part in (_rates, _duration, _weighting, _output):
        part(translation)
    if "network_dim" in translation and "network_alpha" not in translation:
        translation.values["alpha"] = 1.0  # the scripts' default
    translation.apply(RULES)
    return translation.imported(DEFAULTS if arguments else OF_DATA)


def _rates(translation: Translation) -> None:
    """Learning rates of the network's parts. The text encoders are trained unless switched off."""
    rate, unet, text = (translation.take(name) for name in ("learning_rate", "unet_lr", "text_encoder_lr"))
    if (of_unet := unet if unet is not None else rate) is not None:
        translation.values["learning_rate"] = of_unet
    if "network_module" in translation or "network_dim" in translation:
        frozen = translation.take_switch("network_train_unet_only") or str(text) in ("0", "0.0")
        translation.values["train_text_encoder"] = not frozen
        of_text = text if text is not None else rate
        if not frozen and of_text is not None:
            translation.values["text_encoder_learning_rate"] = of_text
    if translation.take_switch("use_8bit_adam"):
        translation.values["optimizer"] = "adamw_8bit"


def _duration(translation: Translation) -> None:
    """Epochs override steps in the scripts."""
    steps, epochs = translation.take("max_train_steps"), translation.take("max_train_epochs")
    if epochs is not None:
        translation.values |= {"max_train_epochs": epochs, "max_train_steps": None}
    elif steps is not None:
        translation.values["max_train_steps"] = steps
    warmup = translation.take_number("lr_warmup_steps")
    if warmup is not None and 0 < warmup < 1:
        translation.note("lr_warmup_steps", f"{warmup:g} is left out: it is a fraction of the run; give it in steps")
    elif warmup is not None and translation.peek("lr_scheduler", "constant") != "constant":
        translation.values["lr_warmup_steps"] = whole(warmup)


def _weighting(translation: Translation) -> None:
    gamma = translation.take_number("min_snr_gamma")
    if gamma is not None and gamma > 0:
        translation.values |= {"loss_weighting": "min_snr", "min_snr_gamma": whole(gamma)}
    if translation.take_switch("debiased_estimation_loss"):
        translation.values["loss_weighting"] = "debiased"


def _output(translation: Translation) -> None:
    folder, name = translation.take("output_dir"), translation.take("output_name")
    if folder is not None or name is not None:
        translation.output = Path(str(folder or "outputs"), *([str(name)] if name else []))
