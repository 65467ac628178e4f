"""Stable Cascade's training guide: its YAML files."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from settings.importing.lambdas import filters_from, key_from
from settings.importing.translation import Imported, Rule, Translation, left_out, number, same, whole
from settings.record import ConfigError

STAGE_C = {"3.6B": "stabilityai/stable-cascade-prior", "1B": None}
STAGE_B = {"3B": "stabilityai/stable-cascade", "700M": None}
"""Hub id of the base model for each network; None if the hub has no separate model for it."""
FINISHED_SIDE = 4 / 3
"""The original's image_size is the input of Stage C's encoder, three quarters of the side of generated images;
`resolution` is the side of generated images."""
CONTROLS = {"CannyFilter": "canny", "InpaintFilter": "inpainting", "SREffnetFilter": "super_resolution",
            "SRFilter": "super_resolution", "IdentityFilter": "faces"}  # fmt: skip
DEFAULT_MODE = "effnet"
MODES = {"SREffnetFilter": "large", "IdentityFilter": "simple"}
"""Networks of the original's ControlNets, by the filters whose output is not an image."""
IDENTITY = {"max_faces": ("control_max_faces", 4), "p_drop": ("control_dropout", 0.05),
            "p_full": ("control_full_share", 0.3)}  # fmt: skip
"""Settings of the original's IdentityFilter, and their defaults there."""
EMA_EVERY, EMA_BETA = 100, 0.9
S3_PIPE = re.compile(r"pipe:\s*aws s3 cp\s+(s3://[^\s;|&$`<>]+)\s+-\s*")

_PART = "it is loaded from base_model"
RULES: Mapping[str, Rule] = {
    "lr": same("learning_rate"),
    "updates": same("max_train_steps"),
    "warmup_updates": same("lr_warmup_steps"),
    "rank": same("rank"),
    "allow_tf32": same("allow_tf32"),
    "offset_noise": same("noise_offset"),
    "backup_every": left_out("every checkpoint is kept; keep_checkpoints limits their number"),
    "checkpoint_path": left_out("checkpoints are written to the output folder"),
    "checkpoint_extension": left_out("files are safetensors"),
    "wandb_entity": left_out("W&B reads it from the environment variable WANDB_ENTITY"),
    "use_fsdp": left_out("the original does not shard either; here accelerate launch --use_fsdp shards the base model"),
    "edm_objective": left_out("the original does not read it"),
    "shift": left_out("the original does not read it in training"),
    "dist_file_subfolder": left_out("accelerate launch connects the processes"),
    "bucketeer_random_ratio": left_out("every image is trained in the aspect ratio nearest to its own"),
    "controlnet_blocks": same("controlnet_blocks"),
    "controlnet_filter_params": left_out("docs/controlnet.md describes how conditioning images are computed"),
    **dict.fromkeys(
        ("effnet_checkpoint_path", "generator_checkpoint_path", "clip_image_model_name", "clip_text_model_name",
         "tokenizer_path", "stage_a_checkpoint_path"), left_out(_PART),
    ),
    "previewer_checkpoint_path": left_out("samples are decoded with Stage B"),
}  # fmt: skip


def is_cascade(given: Mapping[str, Any]) -> bool:
    """Whether the fields include those that all files of the guide have."""
    return {"webdataset_path", "model_version"} <= given.keys()


def from_cascade(given: Mapping[str, Any], known: frozenset[str]) -> Imported:
    """Translate a file of the guide. Raises ConfigError for fields that would train something else here."""
    translation = Translation(given, known)
    defaults = {"loss_weighting": "p2", "caption_dropout": 0.05, "captioner": "none"}
    for part in (_base, _kind, _tokens, _batch, _sizes, _data, _saving, _average, _weighting):
        part(translation)
    translation.take("model_version")
    translation.apply(RULES)
    return translation.imported(defaults)


def _base(translation: Translation) -> None:
    version = _version(translation)
    bases = STAGE_C | STAGE_B
    if version not in bases:
        raise ConfigError(f"model_version: {version} is unknown; choose one of {', '.join(bases)}")
    if (base := bases[version]) is not None:
        translation.values["base_model"] = base
        return
    others, part = (STAGE_B, "decoder") if version in STAGE_B else (STAGE_C, "prior")
    larger = next(each for each in others.values() if each)
    translation.needed["base_model"] = (
        f"model_version: {version} needs --base_model, a folder in diffusers' layout with this network in {part}/; "
        f"{larger} contains the larger network there"
    )


def _version(translation: Translation) -> str:
    return str(translation.peek("model_version", next(iter(STAGE_C))))


def _kind(translation: Translation) -> None:
    """Set the adapter. The original has a script for each kind of training; the fields show which one a file is for."""
    control = translation.take("controlnet_filter")
    modules = translation.take("module_filters")
    if control is not None:
        _controlnet(translation, control)
    elif modules is None and "rank" not in translation:
        translation.values["adapter"] = "full"
    else:
        if modules not in (None, [".attn"], ".attn"):
            raise ConfigError(
                f"module_filters: {modules} are module names of the original's network; leave it out, and set "
                "lora_targets, or lora_target_regex with the names in diffusers"
            )
        translation.values |= {"adapter": "lora", "lora_targets": "attention"}
        translation.note("rank", "the original scales a LoRA by 1 / rank and starts it larger; here alpha is the rank")


def _controlnet(translation: Translation, control: Any) -> None:
    """Set the network for the conditioning image. Each filter of the original supports one of its modes."""
    if not isinstance(control, str) or control not in CONTROLS:
        raise ConfigError(f"controlnet_filter: {control} has no equivalent; supported are {', '.join(CONTROLS)}")
    translation.values |= {"adapter": "controlnet", "control": CONTROLS[control]}
    mode = translation.take("controlnet_bottleneck_mode") or DEFAULT_MODE
    faces = CONTROLS[control] == "faces"
    if (faces or mode != DEFAULT_MODE) and MODES.get(control) != mode:
        raise ConfigError(
            f"controlnet_bottleneck_mode: {mode} with {control} has no equivalent; supported are large with "
            f"SREffnetFilter, simple with IdentityFilter, and {DEFAULT_MODE} with conditioning images"
        )
    if faces:
        _faces(translation)
        return
    if mode == "large":
        translation.values["controlnet_bottleneck"] = mode
    elif control in MODES:
        translation.note(
            "controlnet_filter",
            f"in the original the input of {mode} is the latents from {control}; here it is the conditioning image",
        )


def _faces(translation: Translation) -> None:
    given = translation.take("controlnet_filter_params") or {}
    if not isinstance(given, dict) or (strange := sorted(map(str, given.keys() - IDENTITY.keys()))):
        said = "must be a mapping" if not isinstance(given, dict) else f"{strange[0]} is none of {', '.join(IDENTITY)}"
        raise ConfigError(f"controlnet_filter_params: {said}")
    for name, (setting, usual) in IDENTITY.items():
        translation.values[setting] = whole(number(name, given.get(name, usual)))
    translation.note(
        "controlnet_filter",
        "faces are detected and embedded by face_detector_model and face_recognition_model (SFace), in the original by "
        "insightface; a ControlNet trained with the embeddings of one does not work with those of the other",
    )


def _tokens(translation: Translation) -> None:
    pairs = translation.take("train_tokens") or []
    if translation.values["adapter"] != "controlnet":
        translation.values["trigger_word"] = ""  # captions are trained unchanged
    if translation.values["adapter"] != "lora" or not pairs:
        if pairs:
            translation.note("train_tokens", "is left out: tokens are only trained with a LoRA")
        return
    if not isinstance(pairs, list) or any(not isinstance(pair, list) or len(pair) != 2 for pair in pairs):
        raise ConfigError("train_tokens: must be a list of pairs: a token, and a regular expression or null")
    translation.values["train_tokens"] = [_word(str(word), start) for word, start in pairs]
    if "lr" in translation:
        rate = translation.take("lr")
        translation.values |= {"learning_rate": rate, "token_learning_rate": rate}
    if any(_is_new(str(word)) and start is None for word, start in pairs):
        translation.note(
            "train_tokens", "a new token without an expression is initialised randomly, in the original with 0"
        )


def _word(word: str, start: Any) -> dict[str, Any]:
    """The original ignores the expression of known tokens."""
    return {"word": word, "start": start} if _is_new(word) and start is not None else {"word": word}


def _is_new(word: str) -> bool:
    return word.startswith(("[", "<"))


def _batch(translation: Translation) -> None:
    """The original's batch_size is the number of images of one optimizer step, over all processes."""
    accumulation = translation.take_number("grad_accum_steps") or 1.0
    translation.values["gradient_accumulation_steps"] = whole(accumulation)
    batch = translation.take_number("batch_size")
    if batch is None:
        return
    translation.values["train_batch_size"] = max(1, int(batch / accumulation))
    translation.note(
        "batch_size",
        f"{whole(batch)} images per optimizer step are {translation.values['train_batch_size']} images in each of "
        f"{whole(accumulation)} micro-batches on one GPU; divide train_batch_size by the number of GPUs",
    )


def _sizes(translation: Translation) -> None:
    if (side := translation.take_number("image_size")) is not None:
        finished = side if _version(translation) in STAGE_B else side * FINISHED_SIDE
        translation.values["resolution"] = round(finished)
        if finished != side:
            translation.note(
                "image_size", f"{whole(side)} is resolution: {round(finished)} here, the side of the generated image"
            )
    ratios = translation.take("multi_aspect_ratio")
    translation.values["aspect_ratio_bucketing"] = ratios is not None
    if ratios is not None:
        if not isinstance(ratios, list):
            raise ConfigError(f"multi_aspect_ratio: {ratios!r} must be a list of ratios such as 3/4")
        translation.values["aspect_ratios"] = [str(ratio) for ratio in ratios]


def _data(translation: Translation) -> None:
    places = translation.take("webdataset_path", [])
    for place in places if isinstance(places, list) else [places]:
        translation.sources.append(_place(str(place).strip()))
    pairs = translation.take("dataset_filters") or []
    if not isinstance(pairs, list):
        raise ConfigError(f"dataset_filters: {pairs!r} must be a list of pairs")
    conditions = [each for pair in pairs for each in _filters(pair)]
    if conditions:
        translation.values["filters"] = conditions
    getter = translation.take("captions_getter")
    if getter is None:
        return
    if not isinstance(getter, list) or len(getter) != 2 or getter[0] not in ("txt", "json"):
        raise ConfigError(
            f"captions_getter: {getter} must be a pair such as [txt, identity] or [json, lambda s: s['text']]"
        )
    key = key_from(_code(getter[1], "captions_getter"), "captions_getter")
    if key is not None:
        translation.values["caption_column"] = key


def _place(place: str) -> str:
    if place.startswith("pipe:"):
        if not (found := S3_PIPE.fullmatch(place)):
            raise ConfigError(f"webdataset_path: {place!r} is a shell command, which is never run; give the URL")
        return found[1]
    if place.endswith((".yml", ".yaml")):
        raise ConfigError(f"webdataset_path: {place} is a list of shards; write the list into webdataset_path itself")
    return place.removeprefix("file:")


def _filters(pair: Any) -> list[str]:
    if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], str):
        raise ConfigError(f"dataset_filters: {pair!r} must be a pair such as [aesthetic_score, 'lambda s: s > 4.5']")
    return filters_from(pair[0], _code(pair[1], "dataset_filters"), "dataset_filters")


def _code(value: Any, shown: str) -> str:
    """Return the text of a lambda. Without quotes YAML reads it as a mapping: {lambda s: s > 4.5}."""
    if isinstance(value, dict) and len(value) == 1:
        ((head, body),) = value.items()
        return f"{head}: {body}"
    if not isinstance(value, str):
        raise ConfigError(f"{shown}: {value!r} must be a text such as 'lambda s: s > 4.5'")
    return value


def _saving(translation: Translation) -> None:
    if (steps := translation.take("save_every")) is not None:
        translation.values |= {"checkpointing_steps": steps, "sample_steps": steps}
    name, folder = translation.take("experiment_id"), translation.take("output_path")
    if name is not None or folder is not None:
        translation.output = Path(str(folder or "outputs"), *([str(name)] if name else []))
    if project := translation.take("wandb_project"):
        translation.values["trackers"] = ["wandb"]
        translation.note("wandb_project", f"{project} is left out: runs are logged to this trainer's own W&B project")


def _average(translation: Translation) -> None:
    names = ("ema_start_iters", "ema_iters", "ema_beta")
    if not any(name in translation for name in names):
        return
    start, every, beta = (translation.take_number(name) for name in names)
    if start is None:
        translation.note("ema_iters", "is left out: the original averages only if ema_start_iters is set")
        return
    beta, every = EMA_BETA if beta is None else beta, every or EMA_EVERY
    if not 0 < beta < 1 or every < 1:
        raise ConfigError(f"ema_beta: {beta:g} every {every:g} iterations is not an average; usually 0.9 and 100")
    translation.values |= {"ema_decay": beta, "ema_start": whole(start), "ema_interval": whole(every)}


def _weighting(translation: Translation) -> None:
    if translation.take_switch("adaptive_loss_weight"):
        translation.values["loss_weighting"] = "adaptive"
