"""Tests of each loss term against its formula in float64, and of the rules about which settings go together."""

import gc
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image, ImageOps
from torch import Tensor, nn

from families.family import ModelFamily, SizeConditioning
from families.noise.diffusion_process import DiffusionProcess
from families.noise.flow_matching import FlowMatching
from families.noise.noise_process import Draw
from families.parts.placeholder_tokens import PlaceholderTokens
from settings.record import ConfigError
from settings.training import TrainingConfig, build_config
from tests.trainer.adapters.placing import place_adapter
from tests.trainer.losses.test_masked_loss import ALPHAS, context, random_masks
from tests.trainer.test_training import CONFIG, placed
from trainer.execution.attention_capture import AttentionCapture
from trainer.losses.adapter_l1 import AdapterL1
from trainer.losses.huber import Huber, HuberSchedule
from trainer.losses.mean_squared_error import MeanSquaredError
from trainer.losses.term import StepContext
from trainer.losses.token_attention import TokenAttention
from trainer.losses.token_covariance import RIDGE, TokenCovariance
from trainer.losses.token_norm import TokenNorm
from trainer.losses.weighting import TimestepWeighting
from trainer.objective_rules import require_objective

SIZE = SizeConditioning((64, 64), (0, 0), (64, 64))


@pytest.mark.parametrize("gamma", [1.0, 5.0])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_soft_min_snr_is_min_snr_without_its_corner(prediction_type: str, gamma: float) -> None:
    process = DiffusionProcess(ALPHAS, prediction_type)  # type: ignore[arg-type]
    timesteps = torch.arange(len(ALPHAS))
    snr = (ALPHAS / (1 - ALPHAS)).double()
    expected = snr * gamma / (snr + gamma) / (snr if prediction_type == "epsilon" else snr + 1)
    soft, hard = (TimestepWeighting(kind, gamma)(process, timesteps) for kind in ("soft_min_snr", "min_snr"))
    assert isinstance(soft, Tensor) and isinstance(hard, Tensor)
    torch.testing.assert_close(soft.double(), expected, rtol=1e-5, atol=0)
    assert (soft < hard).all() and (soft > hard / 2.01).all()


@pytest.mark.parametrize("kind", ["min_snr", "soft_min_snr"])
def test_pure_noise_has_a_finite_weight(kind: str) -> None:
    """With zero terminal SNR and v-prediction, the loss of an image at the last timestep must not become NaN."""
    process = DiffusionProcess(torch.tensor([0.9, 0.0]), "v_prediction")
    weights = TimestepWeighting(kind, 5.0)(process, torch.tensor([0, 1]))  # type: ignore[arg-type]
    assert isinstance(weights, Tensor) and torch.isfinite(weights).all() and weights[1] == 0


@pytest.mark.parametrize("schedule", ["constant", "snr"])
@pytest.mark.parametrize("process", [DiffusionProcess(ALPHAS, "epsilon"), DiffusionProcess(ALPHAS, "v_prediction"),
                                     FlowMatching()])  # fmt: skip
def test_huber_is_its_formula(process: DiffusionProcess | FlowMatching, schedule: HuberSchedule) -> None:
    step = replace(context(), noise_process=process, draw=Draw(torch.tensor([3, 20, 45]), context().draw.noise))
    delta = torch.full((3,), 0.2, dtype=torch.float64)
    if schedule == "snr":
        snr = process.snr(step.draw.timesteps).double()
        delta = 0.8 / (1 + snr**-0.5) ** 2 + 0.2
    difference = step.prediction.double() - process.target(step.latents, step.draw).double()
    wide = delta.view(-1, 1, 1, 1)
    expected = (2 * wide * ((difference**2 + wide**2).sqrt() - wide)).mean()
    torch.testing.assert_close(Huber(0.2, schedule)(step).double(), expected, rtol=1e-5, atol=0)


def test_huber_is_mse_for_small_errors_and_linear_for_large() -> None:
    step = context(masks=random_masks())
    small = replace(step, prediction=step.draw.noise + 1e-3 * torch.randn_like(step.draw.noise))
    assert Huber(1.0, "constant")(small).item() == pytest.approx(MeanSquaredError()(small).item(), rel=1e-4)
    far, further = (replace(step, prediction=step.draw.noise + distance) for distance in (100.0, 200.0))
    assert Huber(0.1)(further).item() == pytest.approx(2 * Huber(0.1)(far).item(), rel=1e-2)


@pytest.mark.parametrize("term", [MeanSquaredError("min_snr"), MeanSquaredError("soft_min_snr"), Huber()])
def test_the_scale_does_not_depend_on_the_area_of_the_mask(term: MeanSquaredError | Huber) -> None:
    """An error that is the same everywhere has the same loss with a small mask and a large one."""
    losses = []
    for side in (1, 3, 5):
        masks = torch.zeros(3, 1, 5, 6)
        masks[..., :side, :side] = 1
        step = context(masks=masks)
        target = step.noise_process.target(step.latents, step.draw)
        losses.append(term(replace(step, prediction=target + 0.3)).item())
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)


def rows(*shapes: tuple[int, int]) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(3)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def test_adapter_l1_is_its_formula() -> None:
    parameters = rows((4, 7), (3, 5))
    everything = torch.cat([each.detach().flatten() for each in parameters]).double()
    loss = AdapterL1(parameters, 0.3)(context())
    assert loss.item() == pytest.approx(0.3 * everything.abs().mean().item(), rel=1e-6)
    loss.backward()
    assert parameters[0].grad is not None
    torch.testing.assert_close(parameters[0].grad, 0.3 * parameters[0].detach().sign() / 43)


def test_adapter_l1_leaves_the_magnitudes_of_dora_alone(base: ModelFamily) -> None:
    """They are the norms of the base's weights: a penalty on them would shrink the base."""
    parts = place_adapter(base, build_config({"adapter": "dora", "rank": 4, "lora_targets": "cross-attention-kv"}))
    magnitudes = {id(each) for each in parts["lora"].undecayed}
    term = AdapterL1.of(parts, ("lora", "text_encoders"), 1.0)
    parts.remove()
    assert magnitudes and term.parameters
    assert not any(id(each) in magnitudes for each in term.parameters)
    assert len(term.parameters) == 2 * len(magnitudes)


def test_token_norm_is_its_formula() -> None:
    trained, tables = rows((2, 6), (2, 9)), rows((20, 6), (20, 9))
    each = [
        row.detach().double().norm(dim=1) / table.detach().double().norm(dim=1).mean()
        for row, table in zip(trained, tables, strict=True)
    ]
    loss = TokenNorm.of(trained, list(tables), 0.5)(context())
    assert loss.item() == pytest.approx(0.5 * ((torch.cat(each) - 1) ** 2).mean().item(), rel=1e-5)
    loss.backward()
    assert all(row.grad is not None and row.grad.any() for row in trained)


def test_token_covariance_is_its_formula_and_words_are_near_one() -> None:
    table = rows((400, 6))[0].detach() @ torch.diag(torch.tensor([5.0, 2, 1, 1, 0.5, 0.1])) + 3
    trained = rows((2, 6))
    values = table.double()
    covariance = values.T.cov()
    covariance += RIDGE * covariance.diagonal().mean() * torch.eye(6, dtype=torch.float64)
    off = trained[0].detach().double() - values.mean(dim=0)
    distance = torch.einsum("ni,ij,nj->n", off, covariance.inverse(), off) / 6
    term = TokenCovariance.of(trained, [table], 0.5)
    assert term(context()).item() == pytest.approx(0.5 * ((distance - 1) ** 2).mean().item(), rel=1e-3)
    usual = TokenCovariance.of([nn.Parameter(table[:50])], [table], 1.0)(context())
    assert usual.item() < 1 < term(context()).item()


def watched(base: ModelFamily, prompt: str, masks: Tensor | None) -> tuple[TokenAttention, StepContext, list[Tensor]]:
    """Runs one pass of two images with that prompt. Returns the term, its step, and the probabilities that the
    attention layers computed."""
    capture = AttentionCapture(base.denoiser)
    seen: list[Tensor] = []

    class Watching(AttnProcessor):
        def __call__(
            self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **kwargs: Any
        ) -> Tensor:
            output: Tensor = super().__call__(
                attn, hidden_states, encoder_hidden_states=encoder_hidden_states, **kwargs
            )
            if encoder_hidden_states is not None:
                query = attn.head_to_batch_dim(attn.to_q(hidden_states))
                key = attn.head_to_batch_dim(attn.to_k(encoder_hidden_states))
                seen.append(attn.get_attention_scores(query, key).unflatten(0, (2, -1)).mean(dim=1))
            return output

    before = base.denoiser.attn_processors
    base.denoiser.set_attn_processor(Watching())
    noised = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    features = base.encode_prompts([prompt, prompt])
    prediction = base.denoise(noised, torch.tensor([500, 100]), features, [SIZE] * 2)
    base.denoiser.set_attn_processor(before)
    ids = base.tokenizers[0].convert_tokens_to_ids(["<s0>", "<s1>"])
    step = replace(context(batch=2), prediction=prediction, masks=masks, prompts=[prompt, prompt])
    return TokenAttention(capture, base.tokenizers[0], ids, 1.0), step, seen


def test_token_attention_is_its_formula(base: ModelFamily) -> None:
    """The tokens are as large as the base's own: larger ones may get attention that is 0 in one computation only."""
    generator = torch.Generator().manual_seed(0)
    tables = [encoder.get_input_embeddings().weight for encoder in base.text_encoders]
    own = [torch.randn(2, table.shape[1], generator=generator) * table.detach().std() for table in tables]
    placeholders = PlaceholderTokens(base, ["<s0>", "<s1>"], own)
    try:
        masks = torch.zeros(2, 1, 16, 16)
        masks[:, :, 4:10, 2:14] = 1
        term, step, seen = watched(base, "a <s0><s1> here", masks)
        shares = []
        for probabilities in seen:  # (2, N, 77); the tokens are at 2 and 3, after start and "a"
            looked = probabilities.detach().double()[:, :, 2:4].sum(dim=2)
            side = math.isqrt(looked.shape[1])
            places = nn.functional.avg_pool2d(masks, 16 // side).flatten(1).double()
            outside = 1 - (looked * places).sum(1) / looked.sum(1)
            shares.append(outside.nan_to_num(0) ** 2)  # 0 for a layer without attention to the tokens
        loss = term(step)
        assert loss.item() == pytest.approx(torch.stack(shares).mean().item(), rel=1e-4)
        assert torch.autograd.grad(loss, step.prediction, allow_unused=True) == (None,)  # it depends on attention only
        assert loss.requires_grad
    finally:
        placeholders.remove()


def test_token_attention_asks_nothing_without_a_placeholder_or_with_everything_subject(base: ModelFamily) -> None:
    term, step, _ = watched(base, "a red star", torch.zeros(2, 1, 16, 16))
    assert replace(term, token_ids=[10**6])(step).item() == 0  # no prompt has this token
    term, step, _ = watched(base, "a red star", torch.ones(2, 1, 16, 16))
    assert replace(term, token_ids=base.tokenizers[0]("red", add_special_tokens=False).input_ids)(
        step
    ).item() == pytest.approx(0, abs=1e-6)
    assert term(replace(step, masks=None)).item() == 0


def test_the_watch_ends_with_its_object(base: ModelFamily) -> None:
    capture = AttentionCapture(base.denoiser)
    assert base.denoiser._forward_pre_hooks
    del capture
    gc.collect()
    assert not base.denoiser._forward_pre_hooks
    with pytest.raises(ValueError, match="no cross-attention"):
        AttentionCapture(nn.Linear(2, 2))


EVERYTHING = {
    "prior_matching_weight": 1.0, "token_attention_weight": 0.1, "token_norm_weight": 0.1,
    "token_covariance_weight": 0.1, "adapter_l1_weight": 0.1, "loss_type": "huber", "caption_dropout": 0.0,
}  # fmt: skip


LEARNED_ONCE = {"loss_type": "dco", "loss_weighting": "p2", "caption_dropout": 0.0}


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"loss_weighting": "soft_min_snr"}, LEARNED_ONCE, EVERYTHING])
def test_two_micro_batches_have_the_gradient_of_one_batch(
    settings: Mapping[str, object], base: ModelFamily, tmp_path: Path
) -> None:
    """Compares the gradients of the first step, for every term: two batches of 2 images and one batch of 4."""
    gradients = []
    for size, count in ((4, 1), (2, 2)):
        config = CONFIG.model_copy(
            update={"train_batch_size": size, "gradient_accumulation_steps": count, "max_train_steps": 1, **settings}
        )
        for training in placed(base, config, tmp_path / str(count)):
            trainer = training.trainer
            for batch in [next(trainer.batches) for _ in range(count)]:
                marked = torch.zeros(size, 1, *batch.moments.shape[-2:])
                marked[..., 4:12, 4:12] = 1
                losses = trainer.backward(replace(batch, masks=marked), 1 / count)
            assert len(losses) == len(trainer.losses) == (6 if "prior_matching_weight" in settings else 1)
            parameters = [each for trainable in trainer.trainables for each in trainable.parameters]
            gradients.append([each.grad.clone() for each in parameters if each.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) == len(parameters)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=2e-6)


def test_weights_of_the_preservation_set_reach_the_loss(base: ModelFamily, tmp_path: Path) -> None:
    import shutil

    shutil.unpack_archive("assets/examples/robot.zip", tmp_path / "kept")
    for path in (tmp_path / "kept").rglob("*.png"):  # images that the concept also has are left out
        with Image.open(path) as image:
            inverted = ImageOps.invert(image.convert("RGB"))
        inverted.save(path)
    config = CONFIG.model_copy(
        update={"preservation_data": tmp_path / "kept", "preservation_weight": 0.25, "train_batch_size": 8}
    )
    for training in placed(base, config, tmp_path):
        weights: dict[str | None, float] = {}
        for _ in range(4):
            batch = next(training.trainer.batches)
            weights |= dict(zip(batch.concepts, batch.weights.tolist(), strict=True))
        assert weights == {"TOK": pytest.approx(1), None: pytest.approx(0.25)}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"huber_delta": 0.3}, "huber_delta has no effect with loss_type mse"),
        ({"huber_schedule": "constant"}, "huber_schedule has no effect with loss_type mse"),
        ({"loss_weighting": "debiased", "min_snr_gamma": 2}, "min_snr_gamma has no effect"),
        ({"token_attention_weight": 0.1}, "set mask: subject or mask: face"),
        ({"token_norm_weight": 0.1, "token_learning_rate": 0}, "token_norm_weight has no effect"),
        ({"adapter_l1_weight": 0.1, "adapter": "none"}, "adapter_l1_weight has no effect with adapter: none"),
        ({"min_timestep": 0.5, "max_timestep": 0.5}, "must be less than max_timestep"),
    ],
)
def test_contradictions_are_errors_that_name_the_remedy(values: Mapping[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config(values)


FLOW, ZERO = FlowMatching(), DiffusionProcess(torch.tensor([0.9, 0.0]), "v_prediction")


@pytest.mark.parametrize(
    ("values", "process", "message"),
    [
        ({"noise_offset": 0.1}, FLOW, "noise_offset: .* leave it out"),
        ({"noise_offset": 0.1}, ZERO, "noise_offset: .* leave it out"),
        ({"multires_noise_iterations": 6}, FLOW, "multires_noise_iterations: .* leave it out"),
        ({"multires_noise_iterations": 6}, ZERO, "multires_noise_iterations: .* leave it out"),
        ({"input_perturbation": 0.1}, FLOW, "input_perturbation: .* leave it out"),
        ({"loss_weighting": "debiased"}, ZERO, "set min_snr"),
        ({"token_attention_weight": 0.1, "mask": "face"}, ZERO, "no cross-attention layers"),
    ],
)
def test_what_a_base_cannot_do_is_an_error(
    values: Mapping[str, object], process: DiffusionProcess | FlowMatching, message: str
) -> None:
    family = SimpleNamespace(noise_process=process, denoiser=nn.Linear(2, 2))
    config = build_config(values)
    with pytest.raises(ConfigError, match=message):
        require_objective(config.objective, config.noise, "the base", family)  # type: ignore[arg-type]


def test_what_a_base_can_do_is_none(base: ModelFamily) -> None:
    everything = {name: value for name, value in EVERYTHING.items() if name != "token_attention_weight"}
    config = TrainingConfig(noise_offset=0.1, input_perturbation=0.1, loss_weighting="debiased", **everything)
    require_objective(config.objective, config.noise, "the base", base)
