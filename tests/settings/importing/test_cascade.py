"""Tests of importing YAML files with the field names of Stable Cascade's training guide."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from settings.importing.files import import_cascade, import_settings
from settings.importing.translation import Imported
from settings.record import ConfigError
from settings.training import TrainingConfig, build_config

COMMON: dict[str, Any] = {
    "experiment_id": "mine", "checkpoint_path": "/data/checkpoints", "output_path": "results", "model_version": "3.6B",
    "wandb_project": "StableCascade", "wandb_entity": "me", "lr": 1.0e-4, "batch_size": 32, "image_size": 768,
    "grad_accum_steps": 4, "updates": 10_000, "backup_every": 1000, "save_every": 100, "warmup_updates": 1,
    "use_fsdp": False, "webdataset_path": ["s3://bucket/one.tar", "s3://bucket/two.tar"],
    "effnet_checkpoint_path": "models/effnet_encoder.safetensors",
    "previewer_checkpoint_path": "models/previewer.safetensors",
    "generator_checkpoint_path": "models/stage_c_bf16.safetensors",
}  # fmt: skip
TOKENS = [("[fernando]", "^dog</w>"), ("^snail", None)]
LORA = {"module_filters": [".attn"], "rank": 4, "train_tokens": [list(pair) for pair in TOKENS]}
CONTROL = {
    "controlnet_blocks": [0, 4, 8, 12, 51, 55, 59, 63], "controlnet_filter": "CannyFilter",
    "controlnet_filter_params": {"resize": 224}, "captions_getter": ["txt", "identity"], "offset_noise": 0.1,
    "dataset_filters": [["width", "lambda w: w >= 768"], ["score", "lambda s: s > 4.5"]],
}  # fmt: skip


FACES = CONTROL | {
    "controlnet_filter": "IdentityFilter", "controlnet_bottleneck_mode": "simple", "controlnet_filter_params": {
        "max_faces": 3, "p_drop": 0.1, "p_full": 0.2,
    },
}  # fmt: skip


def _imported(path: Path, **fields: Any) -> Imported:
    file = path / "guide.yaml"
    file.write_text(yaml.safe_dump({name: value for name, value in (COMMON | fields).items() if value is not None}))
    return import_cascade(file)


def _config(path: Path, **fields: Any) -> TrainingConfig:
    return build_config(_imported(path, **fields).values)


def test_a_lora_with_a_new_token(tmp_path: Path) -> None:
    imported = _imported(tmp_path, **LORA, multi_aspect_ratio=["1/1", "3/4"])
    config = build_config(imported.values)
    assert (config.adapter, config.rank, config.lora_targets) == ("lora", 4, "attention")
    assert config.trigger_word == "" and [(each.word, each.start) for each in config.train_tokens] == TOKENS
    assert config.learning_rate == config.token_learning_rate == 1e-4
    assert (config.max_train_steps, config.lr_warmup_steps, config.checkpointing_steps) == (10_000, 1, 100)
    assert (config.train_batch_size, config.gradient_accumulation_steps) == (8, 4)  # 32 images per update
    assert config.resolution == 1024 and config.aspect_ratio_bucketing and config.aspect_ratios == ("1/1", "3/4")
    assert config.named_sources == ("s3://bucket/one.tar", "s3://bucket/two.tar")
    assert config.base_model == "stabilityai/stable-cascade-prior" and config.trackers == ("wandb",)
    assert imported.output == Path("results/mine") and not imported.needed


def test_a_controlnet_with_filters(tmp_path: Path) -> None:
    config = _config(tmp_path, **CONTROL)
    assert (config.adapter, config.control, config.noise_offset) == ("controlnet", "canny", 0.1)
    assert config.controlnet_blocks == (0, 4, 8, 12, 51, 55, 59, 63)
    assert config.filters == ("width >= 768", "score > 4.5") and config.trigger_word == ""
    assert not config.aspect_ratio_bucketing
    for name, control in (("InpaintFilter", "inpainting"), ("SREffnetFilter", "super_resolution")):
        assert _config(tmp_path, **CONTROL | {"controlnet_filter": name}).control == control
    latents = CONTROL | {"controlnet_filter": "SREffnetFilter"}
    assert _config(tmp_path, **latents, controlnet_bottleneck_mode="large").controlnet_bottleneck == "large"
    assert any("here it is the conditioning image" in note for note in _imported(tmp_path, **latents).notes)


def test_a_controlnet_for_faces(tmp_path: Path) -> None:
    config = _config(tmp_path, **FACES)
    assert (config.control, config.control_max_faces) == ("faces", 3)
    assert (config.control_dropout, config.control_full_share) == (0.1, 0.2)
    imported = _imported(tmp_path, **FACES | {"controlnet_filter_params": None})
    assert {name: imported.values[name] for name in ("control_max_faces", "control_dropout", "control_full_share")} == {
        "control_max_faces": 4, "control_dropout": 0.05, "control_full_share": 0.3,
    }  # fmt: skip
    assert any("does not work with those of the other" in note for note in imported.notes)


def test_full_fine_tuning_with_an_average(tmp_path: Path) -> None:
    config = _config(tmp_path, ema_start_iters=5000, ema_iters=100, ema_beta=0.9, adaptive_loss_weight=True)
    assert config.loss_weighting == "adaptive" and _config(tmp_path).loss_weighting == "p2"
    assert config.adapter == "full" and config.trigger_word == ""
    assert (config.ema_decay, config.ema_start, config.ema_interval) == (0.9, 5000, 100)
    assert _config(tmp_path, ema_iters=100).ema_decay == 0  # as in the original, which averages only from a start on


def test_every_field_is_translated_or_named(tmp_path: Path) -> None:
    """No field is lost without a note: each becomes a setting, the output, or a note."""
    imported = _imported(tmp_path, **LORA, shift=4, strange_field=1)
    named = {note.removeprefix("guide.yaml: ").partition(":")[0] for note in imported.notes}
    assert named >= {
        "checkpoint_path", "wandb_entity", "backup_every", "use_fsdp", "effnet_checkpoint_path", "image_size", "shift",
        "previewer_checkpoint_path", "generator_checkpoint_path", "strange_field", "batch_size",
    }  # fmt: skip
    assert all(note.startswith("guide.yaml: ") for note in imported.notes)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model_version": "9B"}, "model_version: 9B is unknown; choose one of"),
        ({**LORA, "module_filters": [".mapper"]}, "module_filters: .* lora_target_regex"),
        ({**LORA, "train_tokens": ["^snail"]}, "train_tokens: must be a list of pairs"),
        ({**CONTROL, "controlnet_filter": "QRFilter"}, "controlnet_filter: QRFilter has no equivalent"),
        ({**CONTROL, "controlnet_filter": "IdentityFilter"}, "controlnet_bottleneck_mode: effnet with IdentityFilter"),
        ({**FACES, "controlnet_filter": "CannyFilter"}, "controlnet_bottleneck_mode: simple with CannyFilter"),
        ({**FACES, "controlnet_filter_params": {"p_all": 1}}, "controlnet_filter_params: p_all is none of max_faces,"),
        ({**FACES, "controlnet_filter_params": {"p_drop": "low"}}, "p_drop: 'low' is not a number"),
        ({**FACES, "controlnet_filter_params": [4]}, "controlnet_filter_params: must be a mapping"),
        (
            {**CONTROL, "controlnet_bottleneck_mode": "large"},
            "controlnet_bottleneck_mode: large with CannyF",
        ),
        ({**CONTROL, "controlnet_bottleneck_mode": "huge"}, "controlnet_bottleneck_mode: huge with CannyF"),
        (
            {"dataset_filters": [["score", "lambda s: s > 1 or s < 0"]]},
            "dataset_filters: .* is not a simple comparison",
        ),
        ({"dataset_filters": ["score > 1"]}, "dataset_filters: .* must be a pair"),
        ({"captions_getter": ["json", "lambda s: f(s)"]}, "captions_getter: .* never run"),
        ({"webdataset_path": "pipe:cat /etc/passwd"}, "webdataset_path: .* shell command, which is never run"),
        ({"webdataset_path": "pipe:aws s3 cp s3://a/b.tar;id -"}, "webdataset_path: .* shell command"),
        ({"webdataset_path": "shards.yml"}, "webdataset_path: shards.yml is a list of shards"),
        ({"batch_size": "many"}, "batch_size: 'many' is not a number"),
        ({"webdataset_path": None}, "has no model_version or webdataset_path"),
    ],
)
def test_what_would_train_something_else_is_refused(fields: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        _imported(tmp_path, **fields)


@pytest.mark.parametrize(("version", "part"), [("1B", "prior/"), ("700M", "decoder/")])
def test_the_smaller_networks_need_their_folders(version: str, part: str, tmp_path: Path) -> None:
    imported = _imported(tmp_path, model_version=version)
    assert part in imported.needed["base_model"] and "base_model" not in imported.values


def test_stage_b_whose_sides_are_those_of_the_picture(tmp_path: Path) -> None:
    imported = _imported(tmp_path, model_version="3B", image_size=1024, shift=4)
    config = build_config(imported.values)
    assert (config.base_model, config.resolution) == ("stabilityai/stable-cascade", 1024)
    assert (config.adapter, config.trigger_word, config.loss_weighting) == ("full", "", "p2")
    assert not any("image_size" in note for note in imported.notes)


@pytest.mark.parametrize(
    ("place", "source"),
    [
        ("file:/data/set.tar", "/data/set.tar"),
        ("s3://bucket/set.tar", "s3://bucket/set.tar"),
        ("pipe:aws s3 cp s3://bucket/set.tar -", "s3://bucket/set.tar"),
    ],
)
def test_places_of_data(place: str, source: str, tmp_path: Path) -> None:
    assert _config(tmp_path, webdataset_path=place).named_sources == (source,)


def test_new_words_without_an_expression_and_no_words(tmp_path: Path) -> None:
    imported = _imported(tmp_path, **LORA | {"train_tokens": [["<a>", None]]})
    assert any("is initialised randomly" in note for note in imported.notes)
    without = _config(tmp_path, **LORA | {"train_tokens": None})
    assert without.trigger_word == "" and without.train_tokens == ()


def test_a_lambda_without_quotes_and_the_general_option(tmp_path: Path) -> None:
    file = tmp_path / "guide.yaml"
    file.write_text(yaml.safe_dump(COMMON | {"ignored": None}) + "dataset_filters:\n  - [score, lambda s: s > 4.5]\n")
    assert import_settings(file).values["filters"] == ["score > 4.5"]
