"""ai-toolkit's YAML files: a job with one process, whose sections hold the fields."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
    switched,
    usual,
    whole,
)
from settings.importing.vocabulary import (
    ALL_LINEAR_LAYERS,
    CAPTION_FILES,
    OPTIMIZERS,
    SAVED,
    SCHEDULER,
    SCHEDULES,
    clipping,
    optimizer_arguments,
    precision,
    without_idle_fields,
)
from settings.record import ConfigError

DEFAULTS: Mapping[str, Any] = {
    "num_tokens": 0, "captioner": "none", "loss_weighting": "uniform", "lr_scheduler": "constant", "lr_warmup_steps": 0,
    "train_batch_size": 1, "prior_matching_weight": 0.0, "caption_dropout": 0.0, "lora_targets": ALL_LINEAR_LAYERS,
}  # fmt: skip
"""ai-toolkit's defaults that differ from the defaults here. Its trigger word has no tokens of its own."""
KINDS = ("sd_trainer", "diffusion_trainer", "ui_trainer")
NETWORKS = {"lora": "lora", "lokr": "lokr"}
OF_LAYERS = ("only_if_contains", "ignore_if_contains")
"""Arguments of a network that select its layers."""
TIMESTEPS: Mapping[str, str] = {"sigmoid": "sigmoid", "linear": "uniform", "shift": "shift"}


def _resolution(translation: Translation, name: str, value: Any) -> None:
    sides = [whole(number(name, each)) for each in (value if isinstance(value, list) else [value])]
    if sides:
        translation.values["resolution"] = sides


def _prompts(translation: Translation, name: str, value: Any) -> None:
    """`[trigger]` stands for the trigger word."""
    word = str(translation.values.get("trigger_word", ""))
    prompts = value if isinstance(value, list) else [value]
    prompts = [each.get("prompt", "") if isinstance(each, dict) else each for each in prompts]
    translation.values["validation_prompts"] = [str(prompt).replace("[trigger]", word) for prompt in prompts]


def _kind(translation: Translation, name: str, value: Any) -> None:
    if value not in KINDS:
        raise ConfigError(f"{name}: {value} has no equivalent; supported are {', '.join(KINDS)}")


def _edits(translation: Translation, name: str, value: Any) -> None:
    raise ConfigError(f"{name}: training on pairs of images, to edit images, has no equivalent; leave it out")


RULES: Mapping[str, Rule] = {
    "network.type": choice("adapter", NETWORKS),
    "network.dropout": same("adapter_dropout"),
    "network.conv": left_out("all layers have the same rank; lora_targets can include convolutions"),
    "network.conv_alpha": left_out("all layers have the same rank; lora_targets can include convolutions"),
    "save.dtype": choice("save_precision", SAVED),
    "save.save_every": same("checkpointing_steps"),
    "save.push_to_hub": usual((False,), "push_to_hub names the repository, as owner/name"),
    "save.max_step_saves_to_keep": same("keep_checkpoints"),
    "datasets.folder_path": place,
    "datasets.caption_ext": usual(("txt", ".txt", "caption"), CAPTION_FILES),
    "datasets.caption_dropout_rate": same("caption_dropout"),
    "datasets.shuffle_tokens": switch("shuffle_tags", True),
    "datasets.keep_tokens": same("keep_first_tags"),
    "datasets.cache_latents": switch("latent_cache", "memory"),
    "datasets.cache_latents_to_disk": switch("latent_cache", "disk"),
    "datasets.flip_x": switch("horizontal_flip", True),
    "datasets.resolution": _resolution,
    "datasets.num_repeats": usual((1,), "repeats are set by a folder's name, such as 10_name"),
    "train.batch_size": same("train_batch_size"),
    "train.steps": same("max_train_steps"),
    "train.gradient_accumulation": same("gradient_accumulation_steps"),
    "train.gradient_accumulation_steps": same("gradient_accumulation_steps"),
    "train.max_grad_norm": clipping,
    "train.optimizer_params": optimizer_arguments,
    "train.loss_type": choice("loss_type", {"mse": "mse"}),
    "train.train_unet": usual((True,), "set adapter: none to train only tokens"),
    "train.gradient_checkpointing": switch("gradient_checkpointing", "always"),
    "train.timestep_type": choice("timestep_sampling", TIMESTEPS),
    "train.noise_scheduler": left_out("each base model is trained with its own noise process"),
    "train.optimizer": choice("optimizer", OPTIMIZERS),
    "train.lr_scheduler": choice("lr_scheduler", SCHEDULES),
    "train.noise_offset": same("noise_offset"),
    "train.dtype": precision,
    "model.name_or_path": same("base_model"),
    "model.arch": left_out("the family of the base model is detected from its files"),
    "model.is_flux": left_out("the family of the base model is detected from its files"),
    "model.is_xl": left_out("the family of the base model is detected from its files"),
    "model.assistant_lora_path": same("training_adapter"),
    "model.quantize": switch("base_precision", "int8"),
    "model.qtype": left_out("model.quantize sets base_precision: int8; for other types set it to fp8 or nf4"),
    "model.quantize_te": left_out("text encoders are removed from memory before training"),
    "model.is_v_pred": switch("prediction_type", "v_prediction"),
    "sample.sample_every": same("sample_steps"),
    "sample.prompts": _prompts,
    "sample.samples": _prompts,
    "sample.guidance_scale": same("guidance_scale"),
    "sample.sample_steps": same("num_inference_steps"),
    "sample.seed": left_out("samples use the seed of the run"),
    "sample.walk_seed": left_out("each sample has a different seed"),
    "sample.sampler": left_out(SCHEDULER),
    "sample.neg": usual(("",), "samples have no negative prompt"),
    "sample.width": left_out("samples have the resolution of the training"),
    "sample.height": left_out("samples have the resolution of the training"),
    "type": _kind,
    "datasets.control_path": _edits,
    "device": left_out("the first GPU is used; CUDA_VISIBLE_DEVICES selects another"),
    "performance_log_every": left_out("the report lists the time of every phase"),
}  # fmt: skip


def is_ai_toolkit(given: Mapping[str, Any]) -> bool:
    """Whether a file has a job and its processes."""
    config = given.get("config")
    return "job" in given and isinstance(config, dict) and isinstance(config.get("process"), list)


def from_ai_toolkit(given: Mapping[str, Any], known: frozenset[str]) -> Imported:
    """Translate a file. Raises ConfigError for fields that would train something else here."""
    processes = given["config"]["process"]
    if len(processes) != 1 or not isinstance(processes[0], dict):
        raise ConfigError(f"process: contains {len(processes)} trainings; import a file with one")
    translation = Translation(_fields(processes[0]), known)
    name, folder = given["config"].get("name"), translation.take("training_folder", "outputs")
    if name is not None:
        translation.output = Path(str(folder), str(name))
    if "trigger_word" in translation:
        translation.values["trigger_word"] = translation.take("trigger_word")
    for part in (_network, _rates, _average, _weighting):
        part(translation)
    translation.apply(RULES)
    without_idle_fields(translation)
    return translation.imported({"trigger_word": "", **DEFAULTS})


def _fields(process: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the sections as `section.name`, including those of the dataset."""
    fields: dict[str, Any] = {}
    for name, value in process.items():
        if name == "datasets":
            if not isinstance(value, list) or len(value) != 1:
                raise ConfigError(
                    "datasets: only a single one is translated; list several in sources, with their weights"
                )
            value = value[0]
        if isinstance(value, dict):
            fields |= {f"{name}.{field}": each for field, each in value.items()}
        else:
            fields[name] = value
    return fields


def _network(translation: Translation) -> None:
    """Rank and alpha, which have two names each. Without an alpha a LoRA has 1; 0 means the rank."""
    if not any(name.startswith("network.") for name in translation.names):
        translation.needed["adapter"] = (
            "The file has no section network, so ai-toolkit trains all weights of the model with it; set --adapter "
            "full for that, or --adapter lora"
        )
    ranks, alphas = ([translation.take(f"network.{name}") for name in names] for names in (
        ("rank", "linear"), ("linear_alpha", "alpha"),
    ))  # fmt: skip
    rank, alpha = (next((each for each in given if each is not None), None) for given in (ranks, alphas))
    if rank is not None:
        translation.values["rank"] = rank
        if alpha is None and translation.peek("network.type", "lora") == "lora":
            alpha = 1.0
    if alpha is not None and str(alpha) not in ("0", "0.0"):
        translation.values["alpha"] = alpha
    arguments = translation.peek("network.network_kwargs")
    if isinstance(arguments, dict) and (name := next((each for each in OF_LAYERS if arguments.get(each)), None)):
        raise ConfigError(
            f"network.network_kwargs: {name} has no equivalent; leave it out, and set lora_targets or lora_target_regex"
        )


def _rates(translation: Translation) -> None:
    """Text encoders, if trained, have the rate of the network, unless they have their own."""
    rate, unet, text = (translation.take(f"train.{name}") for name in ("lr", "unet_lr", "text_encoder_lr"))
    if (of_unet := unet if unet is not None else rate) is not None:
        translation.values["learning_rate"] = of_unet
    if (trained := translation.take("train.train_text_encoder")) is None:
        return
    translation.values["train_text_encoder"] = trained
    of_text = text if text is not None else rate
    if switched("train.train_text_encoder", trained) and of_text is not None:
        translation.values["text_encoder_learning_rate"] = of_text


def _average(translation: Translation) -> None:
    config = translation.take("train.ema_config")
    if isinstance(config, dict) and config.get("use_ema"):
        translation.values["ema_decay"] = config.get("ema_decay", 0.999)


def _weighting(translation: Translation) -> None:
    gamma = translation.take_number("train.snr_gamma") or translation.take_number("train.min_snr_gamma")
    if gamma:
        translation.values |= {"loss_weighting": "min_snr", "min_snr_gamma": whole(gamma)}
