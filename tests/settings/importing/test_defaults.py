"""Tests that an imported training is that of the other trainer: its defaults, its units, and its kind of script."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from settings.importing.files import import_settings
from settings.importing.translation import Imported
from settings.record import ConfigError
from settings.training import TrainingConfig, build_config

KOHYA = 'network_module = "networks.lora"\nnetwork_dim = 8\nlearning_rate = 1e-4\n'
SCRIPT = "accelerate launch train_dreambooth_lora_flux.py --instance_data_dir x --rank 8 --max_train_steps 9"


def _file(path: Path, name: str, content: str) -> Imported:
    (path / name).write_text(content)
    return import_settings(path / name)


def _kohya(path: Path, more: str) -> TrainingConfig:
    return build_config(_file(path, "a.toml", f"{KOHYA}{more}").values)


def _toolkit(path: Path, **sections: Any) -> Imported:
    process = {"type": "sd_trainer", "datasets": [{"folder_path": "x"}], **sections}
    return _file(path, "a.yaml", yaml.safe_dump({"job": "extension", "config": {"process": [process]}}))


def _said(imported: Imported, name: str) -> bool:
    return any(f": {name}: " in note for note in imported.notes)


def test_kohya_and_ai_toolkit_train_all_linear_layers(tmp_path: Path) -> None:
    assert _kohya(tmp_path, "").lora_targets == "attention+feed-forward"
    toolkit = _toolkit(tmp_path, network={"type": "lora", "linear": 16})
    assert build_config(toolkit.values).lora_targets == "attention+feed-forward"
    assert build_config(_file(tmp_path, "a.sh", SCRIPT).values).lora_targets == "attention"


def test_a_lora_of_kohya_without_a_rank_has_rank_4_and_alpha_1(tmp_path: Path) -> None:
    config = build_config(_file(tmp_path, "a.toml", 'network_module = "networks.lora"\n').values)
    assert (config.rank, config.alpha) == (4, 1)


def test_a_lora_of_ai_toolkit_without_alpha_has_alpha_1(tmp_path: Path) -> None:
    for network, alpha in (
        ({"type": "lora", "linear": 16}, 1),
        ({"rank": 16, "alpha": 4}, 4),
        ({"linear": 16, "linear_alpha": 0}, None),
    ):
        config = build_config(_toolkit(tmp_path, network=network).values)
        assert (config.rank, config.alpha) == (16, alpha)


def test_ai_toolkits_other_trainings_are_refused(tmp_path: Path) -> None:
    assert not _toolkit(tmp_path, network={"linear": 4}).needed
    assert "trains all weights" in _toolkit(tmp_path).needed["adapter"]
    with pytest.raises(ConfigError, match="type: concept_slider has no equivalent"):
        _toolkit(tmp_path, type="concept_slider")
    with pytest.raises(ConfigError, match="datasets.control_path: training on pairs of images"):
        _toolkit(tmp_path, datasets=[{"folder_path": "x", "control_path": "y"}])


def test_ai_toolkits_captions_are_not_dropped_by_default(tmp_path: Path) -> None:
    assert build_config(_toolkit(tmp_path).values).caption_dropout == 0


def test_ai_toolkits_training_section(tmp_path: Path) -> None:
    train = {
        "train_text_encoder": True, "unet_lr": 2e-4, "lr": 1e-4, "optimizer_params": {"weight_decay": 0.1, "eps": 1},
        "max_grad_norm": 2.0, "lr_scheduler": "constant_with_warmup",
    }  # fmt: skip
    imported = _toolkit(tmp_path, train=train, sample={"samples": [{"prompt": "a cat"}]})
    config = build_config(imported.values)
    assert (config.learning_rate, config.text_encoder_learning_rate, config.train_text_encoder) == (2e-4, 1e-4, True)
    assert (config.weight_decay, config.max_grad_norm, config.lr_scheduler) == (0.1, 2.0, "constant")
    assert config.validation_prompts == ("a cat",) and _said(imported, "train.optimizer_params")
    only = {"linear": 4, "network_kwargs": {"only_if_contains": ["attn"]}}
    with pytest.raises(ConfigError, match="only_if_contains has no equivalent"):
        _toolkit(tmp_path, network=only)


def test_repeats_of_kohyas_folders_make_epochs_longer(tmp_path: Path) -> None:
    general = "max_train_epochs = 4\nsave_every_n_epochs = 2\n[general]\nnum_repeats = 5\n"
    folder = "[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'dogs'\n"
    imported = _file(tmp_path, "a.toml", f"{KOHYA}{general}{folder}")
    config = build_config(imported.values)
    assert (config.max_train_epochs, config.checkpointing_epochs) == (20, 10) and _said(imported, "num_repeats")
    config = _kohya(tmp_path, f"{general}{folder}num_repeats = 3\n")
    assert (config.max_train_epochs, config.checkpointing_epochs) == (12, 6)
    config = _kohya(tmp_path, f"max_train_steps = 40\n{folder}num_repeats = 3\n")
    assert config.max_train_steps == 40


def test_kohyas_tags_are_all_shuffled_unless_told(tmp_path: Path) -> None:
    assert _kohya(tmp_path, "shuffle_caption = true").keep_first_tags == 0
    assert _kohya(tmp_path, "shuffle_caption = true\nkeep_tokens = 2").keep_first_tags == 2
    assert not _kohya(tmp_path, "shuffle_caption = false\nkeep_tokens = 0").shuffle_tags


def test_fields_that_one_schedule_or_loss_reads(tmp_path: Path) -> None:
    restarts = 'lr_scheduler_num_cycles = 3\nlr_scheduler_power = 2\nlr_scheduler = "cosine_with_restarts"'
    config = _kohya(tmp_path, restarts)
    assert (config.lr_scheduler, config.lr_num_cycles, config.lr_power) == ("cosine_with_restarts", 3, 1)
    config = _kohya(tmp_path, 'lr_scheduler_power = 2\nlr_scheduler = "polynomial"')
    assert (config.lr_scheduler, config.lr_power) == ("polynomial", 2)
    config = _kohya(tmp_path, 'loss_type = "l2"\nhuber_c = 0.2\nhuber_schedule = "exponential"')
    assert (config.loss_type, config.huber_delta) == ("mse", 0.1)
    config = _kohya(tmp_path, 'loss_type = "huber"\nhuber_c = 0.2')
    assert (config.loss_type, config.huber_delta) == ("huber", 0.2)
    assert _kohya(tmp_path, "multires_noise_discount = 0.8").multires_noise_iterations == 0


def test_tokens_of_diffusers_advanced_script(tmp_path: Path) -> None:
    command = (
        "python train_dreambooth_lora_sdxl_advanced.py --dataset_name=me/icons --instance_prompt='3d icon of TOK' "
        "--learning_rate=1.0 --text_encoder_lr=1.0 --optimizer=prodigy --lr_scheduler=constant --max_train_steps=1000 "
        "--checkpointing_steps=2000 --initializer_concept='an icon'"
    )
    imported = _file(tmp_path, "a.sh", f"{command} --train_text_encoder_ti")
    config = build_config(imported.values)
    assert (config.trigger_word, config.token_init_words, config.tokens_until) == ("TOK", "an icon", 0.5)
    assert (config.token_optimizer, config.token_learning_rate) == ("prodigy", 1.0)
    assert (config.prior_matching_weight, config.given["prior_matching_weight"]) == (0.0, 0.0)
    assert _said(imported, "instance_prompt") and _said(imported, "checkpointing_steps")
    without = build_config(_file(tmp_path, "a.sh", command).values)  # neither tokens nor text encoders are trained
    assert (without.trigger_word, without.caption_prefix, without.tokens_until) == ("", "3d icon of TOK", 1.0)
    both = build_config(_file(tmp_path, "a.sh", f"{command} --train_text_encoder").values)
    assert (both.train_text_encoder, both.text_encoder_learning_rate) == (True, 1.0)


def test_intervals_beyond_the_end_have_no_effect_there_either(tmp_path: Path) -> None:
    more = "--checkpointing_steps 10 --validation_steps 10 --checkpoints_total_limit 3 --lr_num_cycles 3 --lr_power 2"
    imported = _file(tmp_path, "a.sh", f"{SCRIPT} {more}")
    config = build_config(imported.values)
    assert (config.checkpointing_steps, config.sample_steps, config.keep_checkpoints) == (None, None, None)
    assert _said(imported, "checkpointing_steps") and _said(imported, "sample_steps")
    assert build_config(_file(tmp_path, "a.sh", f"{SCRIPT} --checkpoints_total_limit 3").values).max_train_steps == 9
    longer = SCRIPT.replace("--max_train_steps 9", "--checkpoints_total_limit 3")
    assert build_config(_file(tmp_path, "a.sh", longer).values).checkpointing_steps == 500
    config = _kohya(tmp_path, "max_train_epochs = 2\nsave_every_n_epochs = 3")
    assert (config.max_train_epochs, config.checkpointing_epochs) == (2, None)


def test_units_and_names_with_another_meaning(tmp_path: Path) -> None:
    config = _kohya(tmp_path, "min_timestep = 200\nmax_timestep = 1000\nmax_data_loader_n_workers = 0")
    assert (config.min_timestep, config.max_timestep, config.num_workers) == (0.2, 1, None)
    more = 'guidance_scale = 1.0\nclip_skip = 2\ntimestep_sampling = "flux_shift"'
    imported = _file(tmp_path, "a.toml", f"{KOHYA}{more}")
    config = build_config(imported.values)
    assert (config.guidance_scale, config.timestep_sampling) == (6.0, "shift")
    assert _said(imported, "guidance_scale") and _said(imported, "clip_skip")
    imported = _file(tmp_path, "a.sh", f"{SCRIPT} --guidance_scale 1 --offload --validation_steps 3")
    config = build_config(imported.values)
    assert (config.guidance_scale, config.offload) == (6.0, "auto")
    assert (config.validation_steps, config.sample_steps) == (None, 3)
    assert _said(imported, "guidance_scale") and _said(imported, "offload")


def test_arguments_of_kohyas_optimizer(tmp_path: Path) -> None:
    more = 'optimizer_type = "prodigy"\noptimizer_args = ["decouple=True", "weight_decay=0.2", "d_coef=0.5"]'
    imported = _file(tmp_path, "a.toml", f"{KOHYA.replace('1e-4', '1.0')}{more}")
    config = build_config(imported.values)
    assert (config.weight_decay, config.prodigy_d_coef) == (0.2, 0.5) and _said(imported, "optimizer_args")
    with pytest.raises(ConfigError, match="optimizer_args: 'decay' is not an argument"):
        _kohya(tmp_path, 'optimizer_args = ["decay"]')


def test_no_clipping_is_a_norm_that_is_not_reached(tmp_path: Path) -> None:
    assert _kohya(tmp_path, "max_grad_norm = 0.0").max_grad_norm >= 1e6
    assert _kohya(tmp_path, "max_grad_norm = 0.5").max_grad_norm == 0.5


def test_kohyas_text_encoders(tmp_path: Path) -> None:
    assert _kohya(tmp_path, "text_encoder_lr = [5e-5, 5e-5]").text_encoder_learning_rate == 5e-5
    with pytest.raises(ConfigError, match="text_encoder_lr: .* differs between the text encoders"):
        _kohya(tmp_path, "text_encoder_lr = [5e-5, 1e-5]")
    with pytest.raises(ConfigError, match="network_train_text_encoder_only: has no equivalent"):
        _kohya(tmp_path, "network_train_text_encoder_only = true")


def test_kohyas_network_of_flux_trains_the_transformer_alone(tmp_path: Path) -> None:
    imported = _file(tmp_path, "a.toml", KOHYA.replace("networks.lora", "networks.lora_flux"))
    assert not build_config(imported.values).train_text_encoder and _said(imported, "network_module")


def test_a_file_of_onetrainer_is_refused_by_name(tmp_path: Path) -> None:
    sections = {"unet": {"learning_rate": None}, "learning_rate": 3e-4, "model_type": "X", "base_model_name": "sdxl"}
    with pytest.raises(ConfigError, match="is a file of OneTrainer, which is not translated"):
        _file(tmp_path, "a.yaml", yaml.safe_dump({"training_method": "LORA", **sections}))


def test_a_file_of_kohya_without_a_network_needs_an_adapter(tmp_path: Path) -> None:
    assert "adapter" in _file(tmp_path, "a.toml", "enable_bucket = true\nlearning_rate = 1e-5").needed
    assert not _file(tmp_path, "a.toml", KOHYA).needed
    assert not _file(tmp_path, "a.toml", "[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'x'\n").needed


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        ("train_text_to_image.py", "all weights"),
        ("examples/train_text_to_image_sdxl.py", "all weights"),
        ("sdxl_train.py", "all weights"),
        ("train_controlnet_sdxl.py", "a ControlNet"),
        ("sdxl_train_control_net.py", "a ControlNet"),
        ("sdxl_train_textual_inversion.py", "an embedding"),
        ("train_dreambooth_lora_flux_kontext.py", "a model that edits images"),
    ],
)
def test_scripts_that_train_no_lora_are_refused(script: str, kind: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{Path(script).name} trains {kind}"):
        _file(tmp_path, "a.sh", f"accelerate launch {script} --learning_rate 1e-5 --train_data_dir x")
