"""Tests of direct consistency optimization and the P2 weighting against their formulas in float64, and of the EDM
weighting."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from families.family import ModelFamily, SizeConditioning
from families.noise.diffusion_process import DiffusionProcess
from families.noise.flow_matching import FlowMatching
from families.noise.noise_process import Draw, NoiseProcess
from settings.record import ConfigError
from settings.training import build_config
from tests.job.test_resume import CONFIG as RESUME_CONFIG
from tests.job.test_resume import Prepared, prepared, trainings  # noqa: F401 (a fixture)
from tests.trainer.losses.test_masked_loss import ALPHAS, context, random_masks
from trainer.losses.direct_consistency import DirectConsistency
from trainer.losses.mean_squared_error import MeanSquaredError
from trainer.losses.term import StepContext
from trainer.losses.weighting import TimestepWeighting
from trainer.resolution import resolve

PROCESSES: list[NoiseProcess] = [
    DiffusionProcess(ALPHAS, "epsilon"), DiffusionProcess(ALPHAS, "v_prediction"), FlowMatching(num_timesteps=50)
]  # fmt: skip
BETA = 50.0


class Base:
    """A base model that predicts `answer`, and records the prompts and whether adapters are off."""

    def __init__(self, answer: Tensor) -> None:
        self.answer, self.prompts, self.is_off = answer, list[str](), False

    @contextmanager
    def off(self) -> Iterator[None]:
        self.is_off = True
        yield
        self.is_off = False

    def encode_prompts(self, prompts: list[str]) -> SimpleNamespace:
        self.prompts = prompts
        return SimpleNamespace()

    def denoise(self, *_inputs: object) -> Tensor:
        assert self.is_off and not torch.is_grad_enabled()
        return self.answer


def term(base: Base, beta: float = BETA) -> DirectConsistency:
    placeholders = {"TOK": ["<s0>", "<s1>"], "zwx": []}
    weighting = TimestepWeighting("p2", 0.5)
    words = {"TOK": "dog", "zwx": "cat"}
    return DirectConsistency(base, base, placeholders, words, beta, weighting, 0.1)  # type: ignore[arg-type]


def step_of(process: NoiseProcess) -> StepContext:
    step = replace(context(masks=random_masks(), weights=torch.tensor([1.0, 0.5, 2.0])), noise_process=process)
    draw = Draw(torch.tensor([3, 20, 45]), step.draw.noise)
    return replace(step, draw=draw, noised=process.corrupt(step.latents, draw), prompts=["a <s0><s1>", "", "zwx, TOK"])


def epsilon_share(process: NoiseProcess, timestep: int) -> float:
    """Returns the squared error of ε divided by that of the prediction, for the same error of the image."""
    if process.prediction_type == "flow":
        return (1 - timestep / 50) ** 2
    alpha = float(ALPHAS[timestep])
    return 1.0 if process.prediction_type == "epsilon" else alpha


def snr_of(process: NoiseProcess, timestep: int) -> float:
    if process.prediction_type == "flow":
        return ((1 - timestep / 50) / (timestep / 50)) ** 2
    return float(ALPHAS[timestep] / (1 - ALPHAS[timestep]))


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: process.prediction_type)
def test_it_is_its_formula_image_by_image(process: NoiseProcess) -> None:
    step = step_of(process)
    base = Base(step.prediction.detach() + 0.3 * torch.randn_like(step.prediction))
    target, total = process.target(step.latents, step.draw).double(), 0.0
    assert step.masks is not None
    for image, timestep in enumerate((3, 20, 45)):
        marked = (0.1 + 0.9 * step.masks[image]).double()
        errors = [
            (marked * (answer[image].detach().double() - target[image]) ** 2).sum() / (4 * marked.sum())
            for answer in (step.prediction, base.answer)
        ]
        share, snr = epsilon_share(process, timestep), snr_of(process, timestep)
        above = share * (errors[0] - errors[1])
        loss = -2 / BETA * (torch.sigmoid(-BETA * above).log() + torch.tensor(2.0).double().log()) / share
        total += float(loss) * float(step.weights[image]) * share * (1 + snr) ** -0.5
    assert term(base)(step).item() == pytest.approx(total / 3, rel=1e-4)
    assert base.prompts == ["a dog", "", "cat, TOK"]  # TOK is replaced by its placeholders only


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: process.prediction_type)
def test_a_fresh_adapter_has_the_gradient_of_the_mean_squared_error(process: NoiseProcess) -> None:
    step = step_of(process)
    (gradient,) = torch.autograd.grad(term(Base(step.prediction.detach()))(step), step.prediction)
    plain = MeanSquaredError("p2", 0.5, 0.1)
    (expected,) = torch.autograd.grad(plain(step), step.prediction)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-8)


def test_the_more_an_image_is_learned_the_less_it_pulls() -> None:
    """σ(βΔ) decreases as the error falls below the base model's, and is 1/2 where they are equal."""
    step = step_of(PROCESSES[0])
    target = step.noise_process.target(step.latents, step.draw)
    pulls = []
    for distance in (0.3, 0.2, 0.1):
        own = (target + distance).requires_grad_()
        base = Base(target + 0.2)
        (gradient,) = torch.autograd.grad(term(base)(replace(step, prediction=own)), own)
        pulls.append((gradient / (own - target)).abs().mean().item())
    factors = [2 * torch.sigmoid(torch.tensor(BETA * (d**2 - 0.04))).item() for d in (0.3, 0.2, 0.1)]
    assert [pull / pulls[1] for pull in pulls] == pytest.approx(factors, rel=1e-3)
    assert factors[0] > 1.8 and factors[2] < 0.4


@pytest.mark.parametrize(
    "process",
    [each for each in PROCESSES if each.prediction_type != "flow"],
    ids=lambda process: process.prediction_type,
)
def test_edm_weighs_the_error_of_the_picture_as_karras_does(process: NoiseProcess) -> None:
    """The loss is λ(σ)·|D - x_0|² with D of x = x_0 + σ n, in the variables of EDM, for latents of standard deviation
    1."""
    latents, noise, error = (torch.randn(3, 4, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2, 3))
    timesteps = torch.tensor([3, 20, 45])
    weights = TimestepWeighting("edm")(process, timesteps)
    assert isinstance(weights, Tensor)
    for row, timestep in enumerate(timesteps.tolist()):
        alpha, sigma = ALPHAS[timestep].sqrt(), (1 - ALPHAS[timestep]).sqrt()
        spread = float(sigma / alpha)
        x0, n, off = latents[row], noise[row], error[row]
        if process.prediction_type == "epsilon":
            denoised = (x0 + spread * n) - spread * (n + off)
        else:  # v = α n - σ x_0, and x_0 = α x_t - σ v with x_t = α x_0 + σ n
            denoised = alpha * (alpha * x0 + sigma * n) - sigma * (alpha * n - sigma * x0 + off)
        wanted = (spread**2 + 1) / spread**2 * (denoised - x0).square().sum()
        torch.testing.assert_close(weights[row] * off.square().sum(), wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: process.prediction_type)
def test_p2_is_its_formula_in_the_error_of_epsilon(process: NoiseProcess) -> None:
    timesteps = torch.tensor([3, 20, 45])
    expected = [(1 + snr_of(process, t)) ** -1.5 * epsilon_share(process, t) for t in (3, 20, 45)]
    weights = TimestepWeighting("p2", 1.5)(process, timesteps)
    assert isinstance(weights, Tensor) and weights.tolist() == pytest.approx(expected, rel=1e-4)


def test_p2_is_finite_at_pure_noise() -> None:
    process = DiffusionProcess(torch.tensor([0.9, 0.0]), "v_prediction")
    weights = TimestepWeighting("p2", 1.0)(process, torch.tensor([0, 1]))
    assert isinstance(weights, Tensor) and torch.isfinite(weights).all()
    flow = TimestepWeighting("p2", 1.0)(FlowMatching(), torch.tensor([1000.0]))
    assert isinstance(flow, Tensor) and torch.isfinite(flow).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dco_beta": 500}, "dco_beta has no effect with loss_type mse"),
        ({"loss_type": "dco", "huber_delta": 0.3}, "huber_delta has no effect with loss_type dco"),
        ({"p2_gamma": 0.5}, "p2_gamma has no effect with loss_weighting min_snr"),
        ({"loss_weighting": "p2", "min_snr_gamma": 2}, "min_snr_gamma has no effect with loss_weighting p2"),
        ({"prior_matching_on": "captions", "prior_matching_weight": 0},
         "prior_matching_on has no effect with prior_matching_weight 0"),
        ({"prior_matching_on": "captions", "prior_matching_weight": 1, "prior_prompts": ("a",)},
         "prior_prompts has no effect with prior_matching_on: captions"),
        ({"dream": 1.0, "input_perturbation": 0.1}, "dream and input_perturbation both change the input"),
        ({"adapter": "controlnet", "control": "canny", "loss_type": "dco"}, "which a ControlNet does not change"),
    ],
)  # fmt: skip
def test_contradictions_are_errors_that_name_the_remedy(values: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config(values)


def test_it_goes_together_with_token_attention(base: ModelFamily, prepared: Prepared) -> None:  # noqa: F811
    """Attention is captured in the denoiser's last pass, and this term runs the denoiser again."""
    config = RESUME_CONFIG.model_copy(update={"loss_type": "dco", "token_attention_weight": 0.1, "mask": "subject"})
    dataset, examples = prepared
    views = [[view.load() for view in each.views] for each in examples]
    masked = [
        replace(each, views=tuple(replace(view, mask=torch.rand_like(view.moments[:1])) for view in own))
        for each, own in zip(examples, views, strict=True)
    ]
    for training in trainings(base, config, (dataset, masked)):
        step = next(training.trainer.steps())
    assert step.losses.keys() == {"dco", "token_attention"} and step.losses["token_attention"] > 0


def test_the_base_computes_in_the_precision_of_the_prediction(base: ModelFamily, prepared: Prepared) -> None:  # noqa: F811
    """β multiplies the difference of both by 1000, so a fresh adapter would not start at 0 otherwise."""
    autocast = partial(torch.autocast, "cpu", torch.bfloat16)
    noise, prompts = torch.randn(base.latent_shape(torch.Size((2, 8, 16, 16)))), ["a red star", "a blue square"]
    for training in trainings(base, RESUME_CONFIG.model_copy(update={"loss_type": "dco", "adapter": "lokr"}), prepared):
        draw = Draw(torch.tensor([20, 700]), noise)
        sizes = [SizeConditioning((64, 64), (0, 0), (64, 64))] * 2
        with torch.no_grad(), autocast():
            prediction = base.denoise(noise, draw.timesteps, base.encode_prompts(prompts), sizes)
        process = training.trainer.noise_process
        step = StepContext(prompts, sizes, noise, draw, noise, prediction, process, None, torch.ones(2), prompts)
        (term,) = (each for each in training.trainer.losses if each.name == "dco")
        exact, other = term(replace(step, autocast=autocast)), term(step)
        assert exact is not None and exact.item() == 0 and other is not None and other.item() != 0


def test_a_gamma_that_the_default_weighting_of_the_base_does_not_have_is_an_error(base: ModelFamily) -> None:
    values: dict[str, Any] = {"base_model": "mini-sdxl", "min_snr_gamma": 2.0}
    with pytest.raises(ConfigError, match="no effect with loss_weighting debiased, the default for mini-sdxl; set"):
        resolve(build_config(values), base)
    assert resolve(build_config(values | {"loss_weighting": "min_snr"}), base).min_snr_gamma == 2.0
    assert resolve(build_config(values | {"loss_type": "dco"}), base).loss_weighting == "min_snr"
