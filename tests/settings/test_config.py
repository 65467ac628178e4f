"""Tests of the settings: how values are read and derived, and errors that name the setting and its remedy."""

from pathlib import Path

import pytest
import yaml

from preprocess.captions.trigger import TEMPLATES
from settings.composed import ComposedSections
from settings.concepts import CAPTION_WORDS
from settings.record import ConfigError, Settings, parse_settings, read_settings_file
from settings.training import TrainingConfig, build_config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_train_steps": 0}, r"max_train_steps: .*greater than or equal to 1 \(given: 0\)"),
        ({"learning_rat": 1e-4}, "learning_rat: unknown setting; did you mean learning_rate"),
        ({"zzz": 1}, "zzz: unknown setting; see --help"),
        ({"concept_mode": "dog"}, "concept_mode: .*'face', 'object' or 'style'"),
        ({"captioner": ""}, "captioner: "),
        ({"filters": ["size >"]}, "filters: 'size >' is not a condition"),
        ({"filters": "width > big"}, "compares with 'big', which is not a number"),
        ({"mask": "subject"}, "mask: subject needs a mask_prompt or class_word"),
        ({"mask_prompt": "dog"}, "mask_prompt has no effect without mask: subject"),
        ({"crop": "mask"}, "crop: mask needs a mask"),
        ({"crop_jitter": 0.1}, "need augmented_views"),
        ({"augmented_views": 2}, "needs crop_jitter or color_jitter"),
        ({"keep_first_tags": 2}, "no effect without shuffle_tags"),
        ({"mask_floor": 0.5}, "mask_floor has no effect without a mask"),
        ({"preservation_weight": 2}, "no effect without preservation_data"),
        ({"concepts": [{"trigger_word": "ANN"}, {"trigger_word": "ANN"}]}, "each needs a different trigger_word"),
        ({"concepts": [{"trigger_word": "ANN"}], "class_word": "dog"}, "leave them out at the top level"),
        ({"caption_dropout": 0.6, "trigger_only_dropout": 0.6}, "together exceed 1"),
        ({"caption_dropout": 1.0}, "drops every caption"),
        ({"captioner": "none", "captioner_prompt": "x"}, "captioner_prompt has no effect"),
        ({"trigger_word": "a b"}, "trigger_word: must be one word"),
        ({"trigger_word": "TOK\u200b"}, "trigger_word: contains an invisible character"),
        ({"trigger_word": "..."}, "trigger_word: is punctuation"),
        ({"trigger_word": "TOK,"}, "trigger_word: contains ,, which is reserved"),
        ({"trigger_word": "{trigger}"}, r"trigger_word: contains \{ \}, which"),
        ({"trigger_word": "<s0>"}, "trigger_word: is a token name"),
        ({"trigger_word": "<|endoftext|>"}, r"trigger_word: contains \|, which"),
        ({"trigger_word": "</s>"}, "trigger_word: is a token name"),
        ({"trigger_word": "Photo"}, "trigger_word: is a word of the default captions"),
        ({"trigger_word": "dog", "class_word": "Dog"}, "class_word: Dog is also the trigger_word"),
        ({"concepts": [{"trigger_word": "style"}]}, "is a word of the default captions"),
        ({"concepts": [{"trigger_word": "dog", "class_word": "dog"}]}, "class_word: dog is also the trigger_word"),
        (
            {"trigger_word": "dog", "prior_prompts": ["a dog, asleep"]},
            "prior_prompts: .* contains the trigger word dog",
        ),
        ({"unrelated_prompts": ["a TOK"]}, "unrelated_prompts: 'a TOK' contains the trigger word TOK"),
        ({"evaluation_scales": "0.8,1"}, r"evaluation_scales: must be a list, such as \[a, b\] \(given: '0.8,1'\)"),
        ({"learning_rate": "fast"}, "learning_rate: .*valid number"),
        ({"learning_rate": float("nan")}, "learning_rate: "),
        ({"max_train_steps": 10, "lr_warmup_steps": 10}, "lr_warmup_steps .* must be less than max_train_steps"),
        (
            {"loss_weighting": "uniform", "min_snr_gamma": 1.0},
            "min_snr_gamma has no effect with loss_weighting uniform",
        ),
        ({"max_train_steps": 10, "checkpointing_steps": 20}, "checkpointing_steps .* exceeds max_train_steps"),
        ({"max_train_epochs": 2, "checkpointing_epochs": 3}, r"checkpointing_epochs \(3\) exceeds max_train_epochs"),
        ({"max_train_minutes": 1, "checkpointing_minutes": 1.5}, "checkpointing_minutes .* exceeds max_train_minutes"),
        (
            {"checkpointing_steps": 5, "checkpointing_minutes": 1},
            "checkpointing_steps and checkpointing_minutes both set when checkpoints are written; leave one of them",
        ),
        ({"keep_checkpoints": 2}, "keep_checkpoints has no effect without"),
        ({"scale_lr": True, "optimizer": "prodigy"}, "scale_lr: prodigy estimates the rate itself"),
        ({"multires_noise_discount": 0.2}, "multires_noise_discount has no effect without multires_noise_iterations"),
        (
            {"multires_noise_iterations": 6, "noise_offset": 0.1},
            "multires_noise_iterations and noise_offset both add low-frequency noise",
        ),
    ],
)
def test_wrong_settings_name_the_setting_and_the_remedy(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config(values)


def test_every_wrong_setting_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        build_config({"rank": 0, "seed": -1})
    assert "rank:" in str(error.value) and "seed:" in str(error.value)


def test_numbers_as_yaml_and_shells_write_them() -> None:
    config = build_config(parse_settings("learning_rate: 1e-4\nrank: '8'\nclass_word: null", "text"))
    assert (config.learning_rate, config.rank, config.class_word) == (1e-4, 8, None)


def test_json_is_read_too() -> None:
    assert parse_settings('{"rank": 4}', "config") == {"rank": 4}


@pytest.mark.parametrize("text", ["- a\n- b", "just words", "1: 2"])
def test_what_is_no_mapping_says_so(text: str) -> None:
    with pytest.raises(ConfigError, match="config: must be a mapping"):
        parse_settings(text, "config")


def test_broken_yaml_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("a: [1")
    with pytest.raises(ConfigError, match=r"broken\.yaml: cannot be read as YAML or JSON"):
        read_settings_file(tmp_path / "broken.yaml")
    with pytest.raises(ConfigError, match=r"cannot read .*missing\.yaml"):
        read_settings_file(tmp_path / "missing.yaml")


def test_yaml_cannot_run_code(tmp_path: Path) -> None:
    """The same text creates a folder if an unsafe loader reads it."""
    for number, tag in enumerate(("python/object/apply:os.mkdir", "python/object/new:os.mkdir")):
        folder = tmp_path / str(number)
        text = f"a: !!{tag} [{str(folder)!r}]"
        with pytest.raises(ConfigError, match=f"config: .*could not determine a constructor for the tag .*{tag}"):
            parse_settings(text, "config")
        assert not folder.exists()
        yaml.load(text, yaml.UnsafeLoader)
        assert folder.is_dir()


def test_a_written_config_gives_the_same_config() -> None:
    config = TrainingConfig(rank=3, class_word="dog", learning_rate=2.5e-5)
    assert build_config(yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))) == config


def test_warmup_is_a_tenth_and_at_most_a_hundred() -> None:
    assert TrainingConfig(max_train_steps=50).warmup_steps == 5
    assert TrainingConfig(max_train_steps=5000).warmup_steps == 100
    assert TrainingConfig(max_train_steps=5000, lr_warmup_steps=7).warmup_steps == 7


@pytest.mark.parametrize("path", sorted(Path(__file__).resolve().parents[2].glob("configs/*.yaml")))
def test_every_preset_is_valid(path: Path) -> None:
    build_config(read_settings_file(path))


def test_the_table_of_settings_is_current() -> None:
    from tools.settings_table import TARGET, table

    assert TARGET.read_text(encoding="utf-8") == table(), "run: python -m tools.settings_table"


def test_a_section_holds_its_fields_and_what_was_set() -> None:
    config = build_config({"rank": 3, "seed": 5, "num_tokens": 4, "class_word": "dog", "evaluate": "true"})
    assert config.adapters.rank == 3 and config.adapters.model_fields_set == {"rank"}
    assert config.tokens.num_tokens == 4 and config.preparation.seed == 5
    assert config.preparation.model_fields_set == {"seed", "class_word"}
    filled = config.with_values({"resolution": 512, "alpha": 2.0})
    assert filled.preparation.resolution == 512 and filled.adapters.resolved_alpha == 2.0
    assert filled.preparation.model_fields_set == {"seed", "class_word"}  # not set by the user


def test_the_sections_together_are_the_configuration() -> None:
    config = TrainingConfig()
    views = [value for value in vars(ComposedSections).values() if isinstance(value, property)]
    sections = [part for view in views if isinstance(part := view.fget(config), Settings)]  # type: ignore[misc]
    names = [name for section in sections for name in type(section).model_fields]
    assert len(sections) == 15 and sorted(names) == sorted(TrainingConfig.model_fields)


def test_words_of_concepts_are_composed_and_without_blanks() -> None:
    """They are normalised as captions are, so that they are found there. So are those of each of several concepts."""
    outer = TrainingConfig(trigger_word="cafe\u0301", class_word=" dog ")
    assert (outer.trigger_word, outer.class_word) == ("caf\u00e9", "dog")
    inner = TrainingConfig(concepts=({"trigger_word": "cafe\u0301", "class_word": " "},)).concepts[0]
    assert (inner.trigger_word, inner.class_word) == ("caf\u00e9", None)


@pytest.mark.parametrize(
    "word", ["\U0001f436", "\u0643\u0644\u0628", "my-robot", "sks_2", "\u0928\u200d\u092e", "<cat-toy>", "TOKa"]
)
def test_words_of_every_script_are_triggers(word: str) -> None:
    assert TrainingConfig(trigger_word=word).trigger_word == word


def test_words_of_default_captions_are_those_that_are_no_triggers() -> None:
    texts = " ".join(TEMPLATES.values()).replace("{trigger}", "")
    assert set(texts.split()) == CAPTION_WORDS
