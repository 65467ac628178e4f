"""Tests of importing files and commands of diffusers' scripts, the SDXL guide, kohya's scripts and ai-toolkit."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from settings.importing.files import import_settings, read_import
from settings.importing.translation import Imported
from settings.record import ConfigError
from settings.training import build_config

COMMAND = r"""
# LoRA for SDXL
export MODEL_NAME="stabilityai/stable-diffusion-xl-base-1.0"
export OUT=results
accelerate launch --num_processes=1 --mixed_precision="bf16" train_text_to_image_lora_sdxl.py \
  --pretrained_model_name_or_path=$MODEL_NAME --dataset_name=lambdalabs/naruto-blip-captions \
  --resolution=512 --random_flip --train_batch_size=2 --max_train_steps 300 --num_train_epochs=9 \
  --learning_rate=1e-04 --rank 8 --snr_gamma=5 --checkpointing_steps=100 --lr_scheduler="cosine" --lr_warmup_steps=10 \
  --seed=7 --output_dir="${OUT}/naruto" --report_to=all --gradient_checkpointing --validation_epochs 5 \
  --adam_beta1 0.9 --adam_beta2 0.99 --some_new_flag
"""
GUIDE = {
    "model": {"model_name": "stabilityai/stable-diffusion-xl-base-1.0", "vae_name": "madebyollin/sdxl-vae-fp16-fix"},
    "dataset_name": "me/style", "caption_column": "text", "image_column": "file_name",
    "lora": {"lora_rank": 8, "lora_alpha": 16, "lora_dropout": 0.1,
             "target_modules": ["to_k", "to_q", "to_v", "to_out.0"]},
    "learning_rate": 1e-4, "num_train_epochs": 100, "train_batch_size": 1, "gradient_accumulation_steps": 4,
    "mixed_precision": "fp16", "save_steps": 500, "save_total_limit": 5, "output_dir": "results",
}  # fmt: skip
KOHYA = """
[model_arguments]
pretrained_model_name_or_path = "sd.safetensors"
[network_arguments]
network_module = "networks.lora"
network_dim = 32
unet_lr = 1e-4
text_encoder_lr = 5e-5
optimizer_type = "AdamW8bit"
lr_scheduler = "cosine"
max_train_epochs = 10
min_snr_gamma = 5.0
multires_noise_iterations = 6
scale_weight_norms = 1
output_dir = "results"
output_name = "dog"
[general]
enable_bucket = true
shuffle_caption = true
[[datasets]]
resolution = [768, 768]
batch_size = 4
  [[datasets.subsets]]
  image_dir = "dogs"
  num_repeats = 10
  [[datasets.subsets]]
  image_dir = "animals"
  is_reg = true
  num_repeats = 10
"""
TOOLKIT: dict[str, Any] = {
    "job": "extension",
    "config": {"name": "mine", "process": [{
        "type": "sd_trainer", "training_folder": "results", "trigger_word": "p3r5on",
        "network": {"type": "lora", "linear": 16, "linear_alpha": 8},
        "save": {"dtype": "float16", "save_every": 250, "max_step_saves_to_keep": 4},
        "datasets": [{"folder_path": "people", "caption_ext": "txt", "caption_dropout_rate": 0.1,
                      "cache_latents_to_disk": True, "resolution": [512, 1024]}],
        "train": {"batch_size": 1, "steps": 2000, "gradient_checkpointing": True, "noise_scheduler": "flowmatch",
                  "optimizer": "adamw8bit", "lr": 1e-4, "ema_config": {"use_ema": True, "ema_decay": 0.99},
                  "dtype": "bf16", "timestep_type": "linear"},
        "model": {"name_or_path": "black-forest-labs/FLUX.1-dev", "is_flux": True, "quantize": True,
                  "assistant_lora_path": "assistant.safetensors"},
        "sample": {"sample_every": 250, "prompts": ["[trigger] in Rome"], "seed": 42, "sample_steps": 20},
    }]},
}  # fmt: skip


def _import(path: Path, name: str, content: str | dict[str, Any]) -> Imported:
    file = path / name
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return import_settings(file)


def _named(imported: Imported) -> set[str]:
    return {note.partition(": ")[2].partition(":")[0] for note in imported.notes}


def test_a_command_of_diffusers(tmp_path: Path) -> None:
    imported = _import(tmp_path, "run.sh", COMMAND)
    config = build_config(imported.values)
    assert config.base_model == "stabilityai/stable-diffusion-xl-base-1.0"
    assert config.named_sources == ("hf://lambdalabs/naruto-blip-captions",)
    assert (config.resolution, config.horizontal_flip, config.train_batch_size) == (512, True, 2)
    assert (config.max_train_steps, config.max_train_epochs) == (300, None)  # steps override epochs
    assert (config.learning_rate, config.lr_scheduler, config.lr_warmup_steps) == (1e-4, "cosine", 10)
    assert (config.rank, config.seed, config.checkpointing_steps) == (8, 7, 100)
    assert (config.loss_weighting, config.min_snr_gamma) == ("min_snr", 5)
    assert (config.mixed_precision, config.gradient_checkpointing) == ("bf16", "always")
    assert config.trackers == ("tensorboard", "wandb") and imported.output == Path("results/naruto")
    assert config.trigger_word == "" and config.caption_dropout == 0  # as in the script
    assert _named(imported) == {"validation_epochs", "adam_beta2", "some_new_flag"}


def test_a_file_of_the_sdxl_guide(tmp_path: Path) -> None:
    imported = _import(tmp_path, "config.yaml", GUIDE)
    config = build_config(imported.values)
    assert (config.rank, config.alpha, config.adapter_dropout, config.lora_targets) == (8, 16, 0.1, "attention")
    assert (config.checkpointing_steps, config.keep_checkpoints, config.max_train_epochs) == (500, 5, 100)
    assert config.named_sources == ("hf://me/style",) and config.image_column is None
    assert (config.caption_column, config.loss_weighting) == ("text", "uniform")
    assert config.vae == "madebyollin/sdxl-vae-fp16-fix" and _named(imported) == set()
    assert config.mixed_precision == "fp16"
    (tmp_path / "config.json").write_text(json.dumps(GUIDE))
    assert import_settings(tmp_path / "config.json").values == imported.values


def test_kohyas_arguments_and_data_set_in_one_toml(tmp_path: Path) -> None:
    imported = _import(tmp_path, "config.toml", KOHYA)
    config = build_config(imported.values)
    assert (config.base_model, config.adapter, config.rank, config.alpha) == ("sd.safetensors", "lora", 32, 1)
    assert config.train_text_encoder and config.text_encoder_learning_rate == 5e-5 and config.learning_rate == 1e-4
    assert (config.optimizer, config.max_train_epochs, config.max_train_steps) == ("adamw_8bit", 100, None)
    assert (config.resolution, config.train_batch_size, config.aspect_ratio_bucketing) == (768, 4, True)
    assert config.named_sources == ("dogs",) and str(config.preservation_data) == "animals" and config.shuffle_tags
    assert imported.output == Path("results/dog") and _named(imported) == {"scale_weight_norms", "num_repeats"}
    assert config.multires_noise_iterations == 6


def test_kohyas_command_trains_the_text_encoders_unless_told(tmp_path: Path) -> None:
    command = "accelerate launch sdxl_train_network.py --network_dim 8 --train_data_dir x --learning_rate 2e-4"
    config = build_config(_import(tmp_path, "one.sh", command).values)
    assert config.train_text_encoder and config.text_encoder_learning_rate == 2e-4 == config.learning_rate
    assert (config.max_train_steps, config.train_batch_size, config.alpha) == (1600, 1, 1)  # the script's defaults
    config = build_config(_import(tmp_path, "two.sh", f"{command} --network_train_unet_only").values)
    assert not config.train_text_encoder and config.named_sources == ("x",)


def test_a_file_of_ai_toolkit(tmp_path: Path) -> None:
    imported = _import(tmp_path, "job.yaml", TOOLKIT)
    config = build_config(imported.values)
    assert (config.trigger_word, config.num_tokens, config.rank, config.alpha) == ("p3r5on", 0, 16, 8)
    assert (config.max_train_steps, config.train_batch_size, config.learning_rate) == (2000, 1, 1e-4)
    assert (config.optimizer, config.ema_decay, config.mixed_precision) == ("adamw_8bit", 0.99, "bf16")
    assert (config.latent_cache, config.resolution, config.caption_dropout) == ("disk", (512, 1024), 0.1)
    assert (config.checkpointing_steps, config.keep_checkpoints, config.save_precision) == (250, 4, "fp16")
    assert config.validation_prompts == ("p3r5on in Rome",) and config.num_inference_steps == 20
    assert config.named_sources == ("people",) and imported.output == Path("results/mine")
    assert {"sample.seed"} <= _named(imported) and config.base_precision == "int8"
    assert config.timestep_sampling == "uniform" and config.training_adapter == Path("assistant.safetensors")


def test_dreambooth_with_its_class(tmp_path: Path) -> None:
    command = (
        "python train_dreambooth_lora.py --instance_data_dir dog --instance_prompt 'a photo of sks dog' "
        "--with_prior_preservation --class_data_dir nowhere --class_prompt 'a photo of a dog' --num_class_images 50 "
        "--prior_loss_weight 0.5 --use_8bit_adam --mixed_precision no"
    )
    config = build_config(_import(tmp_path, "run.txt", command).values)
    assert config.caption_prefix == "a photo of sks dog" and config.trigger_word == ""
    assert (config.num_class_images, config.class_prompt, config.preservation_weight) == (50, "a photo of a dog", 0.5)
    assert (config.optimizer, config.mixed_precision) == ("adamw_8bit", "no")
    more = build_config(_import(tmp_path, "run.txt", f"{command} --scale_lr --max_train_samples 9").values)
    assert more.scale_lr and more.max_train_samples == 9
    without = command.replace("--with_prior_preservation ", "")
    assert build_config(_import(tmp_path, "run.txt", without).values).num_class_images == 0


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.sh", "echo hello", "contains 0 commands"),
        ("a.sh", "python a.py --rank 1\npython b.py --rank 2", "contains 2 commands"),
        ("a.sh", "python a.py --data_dir $HOME/x", r"\$HOME is not assigned"),
        ("a.sh", "python a.py --prompt 'open", "cannot be read as a command"),
        ("a.sh", "python a.py --scale_lr=perhaps", "scale_lr: 'perhaps' is neither true nor false"),
        ("a.sh", "python a.py --lr_scheduler piecewise", "lr_scheduler: piecewise has no equivalent"),
        ("a.sh", "python a.py --target_modules to_q ff.net.0", "target_modules: to_q ff.net.0 has no equivalent"),
        ("a.sh", "python a.py --random_flip=perhaps", "random_flip: 'perhaps' is neither true nor false"),
        ("a.toml", "network_dim = ", "cannot be read as TOML"),
        ("a.toml", 'network_dim = 4\nresolution = "512,768"', "resolution: 512,768 is not square"),
        ("a.toml", 'network_dim = 4\nnetwork_module = "lycoris.kohya"', "network_module: lycoris.kohya has no equival"),
        ("a.toml", "datasets = 3\nnetwork_dim = 4", "datasets: must be a list of tables"),
        ("a.yaml", "one: {rank: 4}\ntwo: {rank: 8}", "rank: has different values in two sections"),
        ("a.yaml", "job: x\nconfig: {process: [{}, {}]}", "process: contains 2 trainings"),
        ("a.yaml", "- 1", "must be a mapping"),
    ],
)
def test_what_cannot_be_translated_is_said(name: str, content: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        _import(tmp_path, name, content)


def test_repeats_that_differ_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="num_repeats: differs between the folders"):
        _import(tmp_path, "a.toml", f"{KOHYA}\n  [[datasets.subsets]]\n  image_dir = 'cats'\n  num_repeats = 2\n")


def test_a_secret_is_named_and_not_repeated(tmp_path: Path) -> None:
    imported = _import(tmp_path, "a.sh", "python a.py --hub_token hf_abcdef --rank 4")
    assert "hf_abcdef" not in f"{imported}" and _named(imported) == {"hub_token"}


def test_nothing_is_imported_by_default_and_two_files_are_an_error(tmp_path: Path) -> None:
    assert not read_import(None, None).values
    with pytest.raises(ConfigError, match="leave one of them out"):
        read_import(tmp_path, tmp_path)
    with pytest.raises(ConfigError, match="cannot read"):
        read_import(tmp_path / "none.yaml", None)
