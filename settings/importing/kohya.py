"""Arguments of kohya's sd-scripts, and its TOML files of datasets."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from settings.importing.kohya_datasets import REPEATS, fields_of_datasets, is_dataset_file
from settings.importing.translation import (
    Imported,
    Rule,
    Translation,
    choice,
    left_out,
    number,
    place,
    same,
    switch,
    usual,
    whole,
)
from settings.importing.vocabulary import (
    ALL_LINEAR_LAYERS,
    CAPTION_FILES,
    EPOCHS,
    OPTIMIZERS,
    SAVED,
    SCHEDULER,
    SCHEDULES,
    clipping,
    optimizer_arguments,
    precision,
    trackers,
    without_idle_fields,
    workers,
)
from settings.record import ConfigError

MARKS = {"network_dim", "network_module", "network_alpha", "unet_lr", "enable_bucket", "max_data_loader_n_workers"}
"""Names that only kohya's scripts have."""
DEFAULTS: Mapping[str, Any] = {
    "trigger_word": "", "captioner": "none", "caption_dropout": 0.0, "loss_weighting": "uniform", "rank": 4,
    "max_train_steps": 1600, "train_batch_size": 1, "lr_scheduler": "constant", "lr_warmup_steps": 0,
    "aspect_ratio_bucketing": False, "lora_targets": ALL_LINEAR_LAYERS,
}  # fmt: skip
"""The scripts' defaults that differ from the defaults here."""
OF_DATA: Mapping[str, Any] = {name: DEFAULTS[name] for name in ("trigger_word", "captioner", "caption_dropout")}
"""The same for a file that only lists datasets."""
OF_FLUX = "networks.lora_flux"
NETWORKS = {"networks.lora": "lora", OF_FLUX: "lora", "networks.lora_sd3": "lora"}
OF_NETWORKS = {"network_module", "network_dim", "network_alpha", "network_weights", "adapter"}
LOSSES = {"l2": "mse", "huber": "huber"}
TIMESTEPS = {"uniform": "uniform", "sigmoid": "sigmoid", "shift": "shift", "flux_shift": "shift"}
MOST_TIMESTEPS = 1000


def _resolution(translation: Translation, name: str, value: Any) -> None:
    sides = value if isinstance(value, list) else str(value).replace(",", " ").split()
    if len({str(side) for side in sides}) != 1:
        raise ConfigError(
            f"{name}: {value} is not square; give one number, the side of a square with the area of every bucket"
        )
    translation.values["resolution"] = sides[0]


def _timestep(translation: Translation, name: str, value: Any) -> None:
    """A limit in steps of 1000; here it is a fraction."""
    translation.values[name] = number(name, value) / MOST_TIMESTEPS


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
    "lr_scheduler_num_cycles": same("lr_num_cycles"),
    "lr_scheduler_power": same("lr_power"),
    "optimizer_args": optimizer_arguments,
    "max_grad_norm": clipping,
    "min_timestep": _timestep,
    "max_timestep": _timestep,
    "timestep_sampling": choice("timestep_sampling", TIMESTEPS),
    "guidance_scale": left_out("there it is FLUX's input in training, which is 1 here; here it is that of samples"),
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
    "max_data_loader_n_workers": workers,
    "huggingface_repo_id": same("push_to_hub"),
    "log_with": trackers,
    "caption_extension": usual((".txt", ".caption"), CAPTION_FILES),
    "save_model_as": usual(("safetensors",), "files are safetensors"),
    "clip_skip": usual((1,), "each base model uses the layer that it was trained with"),
    "max_token_length": left_out("the text encoders have 77 positions"),
    "color_aug": left_out("set color_jitter and augmented_views instead"),
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
    for part in (_network, _rates, _duration, _loss, _weighting, _output):
        part(translation)
    translation.apply(RULES)
    without_idle_fields(translation)
    if arguments and not any(name.lower() in OF_NETWORKS for name in arguments):
        translation.needed["adapter"] = (
            "The file has no network_module, so kohya's scripts train all weights of the model with it; set --adapter "
            "lora if the network is given elsewhere"
        )
    return translation.imported(DEFAULTS if arguments else OF_DATA)


def _network(translation: Translation) -> None:
    has_network = "network_dim" in translation or "network_module" in translation
    if has_network and "network_alpha" not in translation:
        translation.values["alpha"] = 1.0  # the scripts' default
    if translation.take_switch("network_train_text_encoder_only"):
        raise ConfigError("network_train_text_encoder_only: has no equivalent; the denoiser is always trained here")


def _rates(translation: Translation) -> None:
    """Learning rates of the network's parts. The text encoders are trained unless switched off."""
    rate, unet, text = (translation.take(name) for name in ("learning_rate", "unet_lr", "text_encoder_lr"))
    text = _same_for_all("text_encoder_lr", text)
    if (of_unet := unet if unet is not None else rate) is not None:
        translation.values["learning_rate"] = of_unet
    if translation.peek("network_module") == OF_FLUX:
        frozen = translation.take_switch("network_train_unet_only")
        if not frozen:
            translation.note("network_module", f"{OF_FLUX} also trains CLIP, which is left out: FLUX is trained alone")
    elif "network_module" in translation or "network_dim" in translation:
        frozen = translation.take_switch("network_train_unet_only") or str(text) in ("0", "0.0")
        translation.values["train_text_encoder"] = not frozen
        of_text = text if text is not None else rate
        if not frozen and of_text is not None:
            translation.values["text_encoder_learning_rate"] = of_text
    if translation.take_switch("use_8bit_adam"):
        translation.values["optimizer"] = "adamw_8bit"


def _same_for_all(name: str, value: Any) -> Any:
    """The value of a list of equal values, one for each text encoder. Raises ConfigError if they differ."""
    if not isinstance(value, list):
        return value
    if len({str(each) for each in value}) != 1:
        raise ConfigError(f"{name}: {value} differs between the text encoders, which have one rate here; give one")
    return value[0]


def _duration(translation: Translation) -> None:
    """Epochs override steps in the scripts. An epoch of theirs has each image `num_repeats` times."""
    steps, epochs = translation.take("max_train_steps"), translation.take("max_train_epochs")
    repeats = translation.take_number(REPEATS, 1.0) or 1.0
    if epochs is not None:
        passes = _repeated("max_train_epochs", epochs, repeats)
        translation.values |= {"max_train_epochs": passes, "max_train_steps": None}
    elif steps is not None:
        translation.values["max_train_steps"] = steps
    if (every := translation.take("save_every_n_epochs")) is not None:
        translation.values["checkpointing_epochs"] = _repeated("save_every_n_epochs", every, repeats)
    if repeats != 1 and (epochs is not None or every is not None):
        translation.note(REPEATS, f"an epoch with {whole(repeats)} repeats is {whole(repeats)} epochs here")
    warmup = translation.take_number("lr_warmup_steps")
    if warmup is not None and 0 < warmup < 1:
        translation.note("lr_warmup_steps", f"{warmup:g} is left out: it is a fraction of the run; give it in steps")
    elif warmup is not None and translation.peek("lr_scheduler", "constant") != "constant":
        translation.values["lr_warmup_steps"] = whole(warmup)


def _repeated(name: str, epochs: Any, repeats: float) -> Any:
    return epochs if repeats == 1 else whole(number(name, epochs) * repeats)


def _loss(translation: Translation) -> None:
    kind = str(translation.take("loss_type", "l2")).lower()
    if kind not in LOSSES:
        raise ConfigError(f"loss_type: {kind} has no equivalent; supported are {', '.join(LOSSES)}; leave it out")
    delta, schedule = translation.take("huber_c"), translation.take("huber_schedule")
    if kind != "huber":
        return
    translation.values["loss_type"] = LOSSES[kind]
    given = {"huber_delta": delta, "huber_schedule": schedule}
    translation.values |= {name: value for name, value in given.items() if value is not None}


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
