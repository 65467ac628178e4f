"""Tests that the error for a name of another trainer names the setting that is meant."""

import pytest

from service.prediction_options import PredictionOptions
from settings.concepts import ConceptConfig
from settings.field_types import field_type
from settings.other_names import ELSEWHERE, NAMES
from settings.preparation import DataConfig
from settings.record import ConfigError, build_settings, parse_settings
from settings.training import TrainingConfig, build_config
from settings.unknown_names import advice, as_option

OPTIONS = {"output", "config", "resume", "weights"}
FIELDS = {**PredictionOptions.model_fields, **ConceptConfig.model_fields, **TrainingConfig.model_fields}


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("network_dim", "rank"),
        ("network_alpha", "alpha"),
        ("lora_rank", "rank"),
        ("lora_alpha", "alpha"),
        ("lora_dropout", "adapter_dropout"),
        ("save_steps", "checkpointing_steps"),
        ("save_every_n_steps", "checkpointing_steps"),
        ("save_every_n_epochs", "checkpointing_epochs"),
        ("ckpt_every_n_minutes", "checkpointing_minutes"),
        ("pyramid_noise_discount", "multires_noise_discount"),
        ("multires_noise", "multires_noise_iterations"),
        ("fp16", "mixed_precision: fp16"),
        ("pretrained_vae_model_name_or_path", "vae"),
        ("revision", "base_revision"),
        ("pretrained_model_name_or_path", "base_model"),
        ("unet_lr", "learning_rate"),
        ("text_encoder_lr", "text_encoder_learning_rate"),
        ("validation_epochs", "sample_steps"),
        ("use_8bit_adam", "optimizer: adamw_8bit"),
        ("cache_latents_to_disk", "latent_cache: disk"),
        ("report_to", "trackers"),
        ("Learning-Rate", "learning_rate"),
        ("learning_rat", "learning_rate"),
        ("steps", "max_train_steps"),
        ("insert_trigger", 'trigger_word: ""'),
    ],
)
def test_the_setting_that_is_meant_is_named(name: str, wanted: str) -> None:
    with pytest.raises(ConfigError) as error:
        build_config(parse_settings(f"{name}: 1", "text"))
    assert str(error.value) == f"{name}: unknown setting; did you mean {wanted}?"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("train_data_dir", "first argument"),
        ("instance_data_dir", "first argument"),
        ("hub_token", "HF_TOKEN"),
        ("output_dir", "--output DIR"),
        ("zzz", "see --help_all"),
    ],
)
def test_what_is_no_setting_is_placed(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: unknown setting; .*{words}"):
        build_config({name: "x"})


def test_sections_of_another_trainer_are_named() -> None:
    with pytest.raises(ConfigError, match="^network: unknown setting; settings have no sections here"):
        build_config(parse_settings("network: {type: lora, linear: 16}", "text"))


def test_many_unknown_names_are_one_line() -> None:
    names = sorted(TrainingConfig.model_fields.keys() - DataConfig.model_fields.keys())
    with pytest.raises(ConfigError) as error:
        build_settings(DataConfig, {**dict.fromkeys(names, 1), "caption_dropout": 7})
    first, second = str(error.value).splitlines()
    assert first.startswith(f"{len(names)} settings are unknown here: {', '.join(names[:5])} …; leave them out")
    assert second.startswith("caption_dropout: ")


def test_a_name_leads_to_what_the_command_has() -> None:
    assert advice("steps", ["num_inference_steps"], as_option) == "did you mean --num_inference_steps?"
    assert advice("cache_latents_to_disk", ["latent_cache"], as_option) == "did you mean --latent_cache disk?"
    assert advice("network_dim", ["output"]) is None
    assert advice("base_model", ["mask_model"], as_option) == "it is not used here; leave it out"
    assert advice("lora_dropout", ["caption_dropout"]) is None  # only the spelling is similar


@pytest.mark.parametrize("row", NAMES)
def test_every_row_leads_to_a_setting_and_a_value_that_it_takes(row: str) -> None:
    setting, _, value = row.partition(": ")
    assert setting in FIELDS or setting in OPTIONS
    if value:
        kind = field_type(FIELDS[setting].annotation)
        is_word = value in kind.choices or value == '""' or (kind.is_switch and value in ("true", "false"))
        assert is_word or float(value) >= 0


def test_no_row_is_dead() -> None:
    """A name that is a setting itself is never looked up, and a name that occurs twice in a row is a mistake."""
    for row, others in NAMES.items():
        assert others and len(set(others)) == len(others), row
        assert not set(others) & TrainingConfig.model_fields.keys(), row
    assert not ELSEWHERE.keys() & TrainingConfig.model_fields.keys()


def test_repeats_are_found_at_their_concept() -> None:
    said = advice("num_repeats", TrainingConfig.model_fields, as_option)
    assert said is not None and "concepts" in said and "10_name" in said
    assert advice("num_repeats", ["repeats", "folder"]) == "did you mean repeats?"
