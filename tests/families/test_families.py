"""Tests of every family with its tiny random model: loading, training end to end, reading the file, and sampling."""

from pathlib import Path

import pytest
import torch

from artifact.artifact import Artifact
from artifact.names.kohya import file_names
from families.errors import BaseModelError
from families.family import ModelFamily, SizeConditioning, limited_licence
from families.loading.fingerprint import fingerprint
from families.noise.cosine_process import CosineProcess
from families.noise.diffusion_process import DiffusionProcess
from families.noise.flow_matching import FlowMatching
from families.parts.placeholder_tokens import PlaceholderTokens, without_placeholders
from families.registry import load_base_model
from job.output_folder import OutputFolder
from job.run import run
from sampler.generation import Generation
from sampler.sampler import RequestError, Sampler, SampleRequest
from sampler.weights import read_weights
from settings.record import ConfigError
from settings.training import TrainingConfig
from tests.conftest import EXAMPLE
from tests.families.test_family_files import latent_shape
from tests.fast_part import slow_but
from tests.tiny_models import TINY_MODELS, opened, write_sd2_v, write_sd3, write_sd15, write_sd15_inpainting, write_sdxl
from trainer.adapters.peft_adapter import PeftAdapter
from trainer.adapters.targets import denoiser_targets
from trainer.resolution import resolve

FACTS = {  # modelspec.architecture, ss_base_model_version, prediction type, encoders
    "sd15": ("stable-diffusion-v1", "sd_v1", "epsilon", ("clip_l",)),
    "sd2-v": ("stable-diffusion-v2-768-v", "sd_v2_v", "v_prediction", ("clip_h",)),
    "sdxl": ("stable-diffusion-xl-v1-base", "sdxl_base_v1-0", "epsilon", ("clip_l", "clip_g")),
    "sdxl-v": ("stable-diffusion-xl-v1-base", "sdxl_base_v1-0", "v_prediction", ("clip_l", "clip_g")),
    "sd3": ("stable-diffusion-3-medium", "sd3-m", "flow", ("clip_l", "clip_g")),
    "flux1": ("flux-1-dev", "flux1", "flow", ()),
    "flux2": ("flux-2-klein", "flux2_klein", "flow", ()),
    "qwen_image": ("Qwen-Image", "qwen_image", "flow", ()),
    "z-image": ("z-image", "zimage", "flow", ()),
    "cascade": ("stable-cascade-v1-prior", "stable_cascade_c", "epsilon", ("clip_g",)),
}
NATIVE = {"qwen_image": 512}
"""Native resolutions of families whose checkpoints do not contain it: 1024 if the VAE reduces by 8; the tiny VAE
reduces by 4."""
NAMES = {  # the layer's path, and its name in our files
    "sd15": (
        "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k",
        "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k",
    ),
    "sdxl": (
        "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k",
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k",
    ),
    "sd3": ("transformer_blocks.0.attn.add_k_proj", "transformer.transformer_blocks.0.attn.add_k_proj"),
    "flux2": (
        "single_transformer_blocks.1.attn.to_qkv_mlp_proj",
        "transformer.single_transformer_blocks.1.attn.to_qkv_mlp_proj",
    ),
    "cascade": (
        "down_blocks.1.2.attention.to_out.0",
        "lora_prior_unet_down_blocks_1_2_attention_attn_out_proj",
    ),
    "z-image": ("noise_refiner.0.attention.to_k", "transformer.noise_refiner.0.attention.to_k"),
    "flux1": ("single_transformer_blocks.1.attn.to_k", "transformer.single_transformer_blocks.1.attn.to_k"),
    "qwen_image": ("transformer_blocks.1.attn.add_v_proj", "transformer.transformer_blocks.1.attn.add_v_proj"),
}


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tiny")
    return {name: write(folder / name) for name, write in TINY_MODELS.items()}


@pytest.fixture
def tiny(tiny_folders: dict[str, Path], request: pytest.FixtureRequest) -> ModelFamily:
    return opened(tiny_folders[request.param])


@pytest.mark.parametrize("kind", TINY_MODELS)
def test_family_and_prediction_are_read_from_the_checkpoint(kind: str, tiny_folders: dict[str, Path]) -> None:
    family = opened(tiny_folders[kind])
    process = family.noise_process
    facts = family.architecture, family.base_model_version, process.prediction_type, family.encoder_names
    assert facts == FACTS[kind]
    other = CosineProcess if kind == "cascade" else DiffusionProcess
    assert isinstance(process, FlowMatching if FACTS[kind][2] == "flow" else other)
    assert (family.native_resolution, family.size_multiple) == (NATIVE.get(kind, 64), 8)
    assert not any(parameter.requires_grad for parameter in family.denoiser.parameters())


@pytest.mark.parametrize(
    "tiny",
    slow_but(
        ["sd15", "sdxl", "sd3", "flux1"],
        ["sd15", "sdxl", "sd3", "flux1", "flux2", "qwen_image", "z-image", "cascade"],
    ),
    indirect=True,
)
def test_it_encodes_denoises_and_samples(tiny: ModelFamily) -> None:
    moments = tiny.encode_image(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    latents = tiny.latents(moments, torch.zeros(latent_shape(tiny, 2)))
    prompts = tiny.encode_prompts(["a red star", "a blue star"])
    draw = tiny.noise_process.draw(latents, torch.Generator().manual_seed(0), torch.Generator().manual_seed(1))
    size = SizeConditioning((64, 64), (0, 0), (64, 64))
    prediction = tiny.denoise(tiny.noise_process.corrupt(latents, draw), draw.timesteps, prompts, [size, size])
    assert prediction.shape == latents.shape and prediction.dtype == torch.float32
    assert torch.isfinite(prediction).all() and prediction.std() > 1e-3
    request = SampleRequest("a red star", width=64, height=64, num_inference_steps=2, num_outputs=2)
    images = Sampler(tiny).generate(request)
    assert [image.size for image in images] == [(64, 64)] * 2


@pytest.mark.parametrize("tiny", ["sd15", "sdxl", "sd3"], indirect=True)
def test_features_are_those_of_diffusers_own_pipeline(tiny: ModelFamily) -> None:
    """The features of diffusers' pipeline and ours are both computed from the text of the prompt."""
    others = {"sd15": (), "sdxl": (None,), "sd3": (None, None)}[tiny.name]  # the second and third encoder's prompts
    options = {"device": tiny.device, "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
    theirs = tiny.pipeline().encode_prompt("a red star", *others, **options)
    ours = tiny.encode_prompts(["a red star"])
    torch.testing.assert_close(ours.prompt_embeds, theirs[0])
    if ours.pooled_prompt_embeds is not None:
        torch.testing.assert_close(ours.pooled_prompt_embeds, theirs[2])


TRAINED = ("sd15", "flux1", "sd2-v", "sdxl-v", "sd3", "flux2", "qwen_image", "z-image", "cascade")


@pytest.mark.parametrize("kind", slow_but(["sd15"], TRAINED))
def test_a_training_end_to_end(kind: str, tiny_folders: dict[str, Path], tmp_path: Path) -> None:
    """The training verifies its file and generates samples. Then the file is loaded on a new base."""
    config = TrainingConfig(
        base_model=str(tiny_folders[kind]), max_train_steps=3, train_batch_size=2, rank=4, alpha=2, learning_rate=1e-2,
        token_learning_rate=1e-2 if FACTS[kind][3] else None, num_validation_images=1, num_inference_steps=2,
        resolution=64,
    )  # fmt: skip
    output = OutputFolder.create(tmp_path / "out")
    events = list(run(config, [EXAMPLE], output))
    assert any(event.message.startswith("verified") for event in events) and (output.samples / "00.png").is_file()

    artifact, family = Artifact.read(output.weights), opened(tiny_folders[kind])
    assert artifact.description is not None
    assert (artifact.description.family, artifact.description.prediction_type) == (family.name, FACTS[kind][2])
    assert set(artifact.tokens) == set(FACTS[kind][3])
    assert (limited_licence(family) in [event.message for event in events]) == (kind == "cascade")
    path, name = NAMES[family.name]
    assert name in artifact.layers and file_names(family)[path] == name
    assert not any(idle in path for path in artifact.layers for idle in family.idle_modules)
    sampler, request = Sampler(family), SampleRequest("a photo of TOK", width=64, height=64, num_inference_steps=2)
    bare = sampler.generate(request)
    sampler.load(artifact)
    assert sampler.generate(request)[0].tobytes() != bare[0].tobytes()
    sampler.unload()
    assert sampler.generate(request)[0].tobytes() == bare[0].tobytes()


@pytest.mark.parametrize("medium_35", [False, True])
def test_every_layer_that_sd3_adapts_learns(medium_35: bool, tmp_path: Path) -> None:
    family = load_base_model(str(write_sd3(tmp_path, t5=False, medium_35=medium_35)), torch.float32)
    paths = denoiser_targets(family, TrainingConfig(lora_targets="attention+feed-forward"))
    PeftAdapter(family.denoiser, "lora", 2, 2.0, paths, torch.Generator().manual_seed(0))
    size = SizeConditioning((64, 64), (0, 0), (64, 64))
    noised = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    family.denoise(noised, torch.tensor([500.0]), family.encode_prompts(["a star"]), [size]).square().sum().backward()
    ups = {name: value for name, value in family.denoiser.named_parameters() if "lora_B" in name}
    assert len(ups) > 10
    assert [name for name, value in ups.items() if value.grad is None or not value.grad.any()] == []
    assert any("attn2" in name for name in ups) == medium_35


@pytest.mark.parametrize("medium_35", [False, True])
def test_idle_layers_of_sd3_are_just_those_without_a_gradient(medium_35: bool, tmp_path: Path) -> None:
    family = load_base_model(str(write_sd3(tmp_path, t5=False, medium_35=medium_35)), torch.float32)
    family.denoiser.requires_grad_(True)
    size = SizeConditioning((64, 64), (0, 0), (64, 64))
    noised = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    family.denoise(noised, torch.tensor([500.0]), family.encode_prompts(["a star"]), [size]).square().sum().backward()
    parameters = family.denoiser.named_parameters()
    idle = {name.rpartition(".")[0] for name, value in parameters if value.grad is None or not value.grad.any()}
    assert idle == set(family.idle_modules)


def test_t5_reads_the_prompt_without_placeholders(tmp_path: Path) -> None:
    assert without_placeholders("a photo of <s0><s1> at sea") == "a photo of at sea"
    family = load_base_model(str(write_sd3(tmp_path)), torch.float32)
    plain = family.encode_prompts(["a photo of at sea"])
    placeholders = PlaceholderTokens(family, ["<s0>"], [torch.ones(1, 32), torch.ones(1, 48)])
    tokens = family.encode_prompts(["a photo of <s0> at sea"])
    placeholders.remove()
    assert torch.equal(plain.prompt_embeds[:, 77:], tokens.prompt_embeds[:, 77:])
    assert not torch.equal(plain.prompt_embeds[:, :77], tokens.prompt_embeds[:, :77])


def test_sd3_without_t5_is_read_as_diffusers_reads_it(tmp_path: Path) -> None:
    family = load_base_model(str(write_sd3(tmp_path, t5=False)), torch.float32)
    theirs = family.pipeline().encode_prompt("a star", None, None, do_classifier_free_guidance=False)
    torch.testing.assert_close(family.encode_prompts(["a star"]).prompt_embeds, theirs[0])


def test_v_prediction_and_zero_terminal_snr_can_be_asked_for(tmp_path: Path) -> None:
    folder = str(write_sdxl(tmp_path))
    family = load_base_model(folder, torch.float32, prediction_type="v_prediction", zero_terminal_snr=True)
    assert family.noise_process.prediction_type == "v_prediction" and family.noise_process.zero_terminal_snr
    config = family.pipeline().scheduler.config
    assert config.rescale_betas_zero_snr and config.timestep_spacing == "trailing"
    assert config.prediction_type == "v_prediction"
    with pytest.raises(BaseModelError, match="zero terminal SNR needs v-prediction"):
        load_base_model(folder, torch.float32, zero_terminal_snr=True)


def test_a_scheduler_that_cannot_start_from_noise_gives_way(tmp_path: Path) -> None:
    folder = str(write_sd15(tmp_path))  # PNDM
    family = load_base_model(folder, torch.float32, prediction_type="v_prediction", zero_terminal_snr=True)
    assert type(family.pipeline().scheduler).__name__ == "DDIMScheduler"
    Sampler(family).check(SampleRequest("a star", scheduler="euler"))
    with pytest.raises(RequestError, match="'heun' is not supported by this base model"):
        Sampler(family).check(SampleRequest("a star", scheduler="heun"))


@pytest.mark.parametrize("scheduler", ["base", "euler", "heun"])
def test_flow_matching_has_schedulers_of_its_own(scheduler: str, tmp_path: Path) -> None:
    sampler = Sampler(load_base_model(str(write_sd3(tmp_path, t5=False)), torch.float32))
    assert sampler.generate(SampleRequest("a star", scheduler=scheduler, num_inference_steps=3))
    with pytest.raises(
        RequestError, match="'ddim' is not supported by this base model; choose one of base, euler, heun"
    ):
        sampler.check(SampleRequest("a star", scheduler="ddim"))


def test_what_flow_matching_has_no_use_for(tmp_path: Path) -> None:
    folder = str(write_sd3(tmp_path, t5=False))
    with pytest.raises(BaseModelError, match="prediction_type: .* neither ε nor v; leave it out"):
        load_base_model(folder, torch.float32, prediction_type="epsilon")
    with pytest.raises(BaseModelError, match="zero_terminal_snr: .* leave it out"):
        load_base_model(folder, torch.float32, zero_terminal_snr=True)
    family = load_base_model(folder, torch.float32)
    with pytest.raises(ConfigError, match="loss_weighting: debiased .* set uniform"):
        resolve(TrainingConfig(base_model=folder, loss_weighting="debiased"), family)
    assert resolve(TrainingConfig(base_model=folder), family).loss_weighting == "uniform"
    with pytest.raises(ConfigError, match="no convolutions; choose attention"):
        resolve(TrainingConfig(base_model=folder, lora_targets="attention+feed-forward+convolutions"), family)


@pytest.mark.slow
def test_an_artifact_remembers_how_its_base_was_opened(tiny_folders: dict[str, Path], tmp_path: Path) -> None:
    vae = tiny_folders["sd15"] / "vae"
    config = TrainingConfig(
        base_model=str(tiny_folders["sd15"]), prediction_type="v_prediction", zero_terminal_snr=True, max_train_steps=2,
        vae=str(vae),
        train_batch_size=1, learning_rate=1e-2, num_validation_images=1, num_inference_steps=2,
    )  # fmt: skip
    output = OutputFolder.create(tmp_path / "out")
    list(run(config, [EXAMPLE], output))
    bare_header = Artifact.read(output.weights).description
    assert bare_header is not None and bare_header.config["vae"] == vae.name
    artifact = read_weights(str(output.weights), 1.0, local_files=True)[0].artifact
    assert artifact.description is not None and artifact.description.config["vae"] == str(vae)
    assert (artifact.description.prediction_type, artifact.description.zero_terminal_snr) == ("v_prediction", True)
    generation = Generation()
    sampler = generation.prepare(artifact, None)
    assert sampler.family.noise_process.prediction_type == "v_prediction"
    assert sampler.family.pipeline().scheduler.config.rescale_betas_zero_snr
    bare = generation.prepare(None, str(tiny_folders["sd15"])).family  # without the artifact: the base's own settings
    assert bare.noise_process.prediction_type == "epsilon" and not bare.noise_process.zero_terminal_snr


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"adapter": "full", "learning_rate": 1e-4},
        {"adapter": "none"},
        {"adapter": "dora", "train_text_encoder": True, "learning_rate": 1e-2},
    ],
)
@pytest.mark.parametrize("kind", ["sd15", "sd3"])
def test_other_adapters_end_to_end(
    settings: dict[str, object], kind: str, tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    values: dict[str, object] = {
        "base_model": str(tiny_folders[kind]), "max_train_steps": 3, "train_batch_size": 2,
        "token_learning_rate": 1e-2, "num_validation_images": 1, "num_inference_steps": 2, **settings,
    }  # fmt: skip
    events = list(run(TrainingConfig(**values), [EXAMPLE], OutputFolder.create(tmp_path / "out")))
    assert any(event.message.startswith("verified") for event in events)


def test_zero_terminal_snr_is_not_weighted_away(tmp_path: Path) -> None:
    """min-SNR would weight the loss of v at the last timestep by 0, so it is not the default."""
    folder = str(write_sd2_v(tmp_path, zero_terminal_snr=True))
    family = load_base_model(folder, torch.float32)
    assert resolve(TrainingConfig(base_model=folder), family).loss_weighting == "uniform"
    assert resolve(TrainingConfig(base_model=folder, loss_weighting="min_snr"), family).loss_weighting == "min_snr"


def test_sd3_has_a_largest_side(tmp_path: Path) -> None:
    folder = str(write_sd3(tmp_path, t5=False))
    family = load_base_model(folder, torch.float32)
    assert family.largest_side == 32 * 8
    with pytest.raises(RequestError, match="width: 264 must be a multiple of 8 between 8 and 256 .* such as 256"):
        Sampler(family).check(SampleRequest("a star", width=264))
    with pytest.raises(ConfigError, match="resolution: 264 is more than 256, .* its native resolution is 64"):
        resolve(TrainingConfig(base_model=folder, resolution=264), family)


def test_a_folder_in_half_precision_only(tmp_path: Path) -> None:
    folder = write_sd15(tmp_path)
    whole = fingerprint(load_base_model(str(folder), torch.float32).denoiser)
    for file in folder.glob("*/*.safetensors"):
        file.rename(file.with_name(file.name.replace(".safetensors", ".fp16.safetensors")))
    assert fingerprint(load_base_model(str(folder), torch.float32).denoiser) == whole


def test_inpainting_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match="is an inpainting model: its UNet has 9 input channels"):
        load_base_model(str(write_sd15_inpainting(tmp_path)), torch.float32)


def test_zero_terminal_snr_of_the_bases_own_scheduler(tmp_path: Path) -> None:
    assert load_base_model(
        str(write_sd2_v(tmp_path, zero_terminal_snr=True)), torch.float32
    ).noise_process.zero_terminal_snr
