"""Tests of the operator's policy: every setting has a mark, and the marks are enforced."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.cog_training import TrainingFailed, _relay
from service.job_secrets import MASK, Secrets, child_environment, require_useful, secrets_of
from service.policy.amounts import marks_of
from service.policy.policy import NotAllowed, Policy, operators_settings
from service.policy.rules import (
    HUB_TARGETS,
    LIMITS,
    LIST_OF,
    MAY_SET,
    MODEL_LISTS,
    REQUIRED_CHECKER,
    TOKENS,
    TRUSTED,
)  # fmt: skip
from service.prediction_inputs import PredictionInputs
from service.processes.child_process import ChildProcess
from service.training_request import allowed_config
from settings.callers import Caller, mark_in
from settings.concepts import ConceptConfig
from settings.record import ConfigError
from settings.sections.publishing import TOKEN_VARIABLE
from settings.training import TrainingConfig
from tests.service.training_requests import training_request
from tools.policy_table import TARGET, page
from trainer.duration import MOST_STEPS

MARKS = {**marks_of(TrainingConfig), **marks_of(PredictionInputs)}


def training(**values: Any) -> TrainingConfig:
    return allowed_config(training_request(**values), Policy.from_environment())


def in_config(**values: Any) -> TrainingConfig:
    return training(config=yaml.safe_dump(values))


def prediction(**values: Any) -> PredictionInputs:
    return Policy.from_environment().allow_prediction(PredictionInputs("a photo of TOK", **values))


@pytest.mark.parametrize("name", TrainingConfig.model_fields)
def test_every_setting_is_marked(name: str) -> None:
    assert marks_of(TrainingConfig)[name] is not None, f"{name} needs Open, Limited, Model or Operator"


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(PredictionInputs)])
def test_every_input_of_the_predictor_is_marked(name: str) -> None:
    assert marks_of(PredictionInputs)[name] is not None, f"{name} needs Open, Limited, Model or Operator"


@pytest.mark.parametrize("name", ConceptConfig.model_fields)
def test_what_concepts_hold_is_open(name: str) -> None:
    """The policy does not check the settings inside a concept, so they must all be open."""
    assert mark_in(ConceptConfig.model_fields[name].metadata) is Caller.OPEN


def test_the_policy_says_what_each_mark_means() -> None:
    limited = {name for limit in LIMITS.values() for name in limit.settings}
    assert {name for name, mark in MARKS.items() if mark is Caller.LIMITED} == limited - {"sources"}
    assert {name for name, mark in MARKS.items() if mark is Caller.SOURCES} == {"sources"}
    assert {name for name, mark in MARKS.items() if mark is Caller.MODEL} == LIST_OF.keys()
    assert set(LIST_OF.values()) == MODEL_LISTS.keys()
    assert LIMITS["LIMIT_MAX_TRAIN_STEPS"].left_out == MOST_STEPS


def test_the_kinds_of_settings_that_hold_a_path_are_not_open() -> None:
    paths = [name for name, field in TrainingConfig.model_fields.items() if "Path" in str(field.annotation)]
    assert len(paths) >= 4
    assert {MARKS[name] for name in paths} == {Caller.OPERATOR}


def test_the_defaults_of_all_inputs_are_allowed() -> None:
    config = training()
    assert config.max_train_minutes == 240  # the operator's limit, if the caller sets no length
    assert prediction() == PredictionInputs("a photo of TOK")


@pytest.mark.parametrize("name", sorted(operators_settings() - {"trackers", "sources"}))
def test_an_operators_setting_is_refused_and_opened_by_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"trust_remote_code": True, "save_model": "diffusers", "save_model_precision": "fp32"}
    given: dict[str, Any] = {name: values.get(name, "/somewhere")}
    given |= {"compile": "auto"} if name == "compile_cache" else {}
    given |= {"evaluate": "true"} if name == "evaluation_face_model" else {}
    given |= {"crop": "face"} if name.startswith("face_") else {}
    opened = name
    if name.startswith("save_model"):
        given |= {"adapter": "full", "learning_rate": 1e-5}
    if name == "save_model_precision":
        given["save_model"], opened = "diffusers", "save_model, save_model_precision"
    with pytest.raises(NotAllowed, match=f"(?m)^{name}: only the operator may set it.*CALLERS_MAY_SET={name}"):
        in_config(**given)
    monkeypatch.setenv("CALLERS_MAY_SET", f"trackers, {opened}")
    assert str(getattr(in_config(**given), name)) == str(given[name])


@pytest.mark.parametrize(
    "source", ["s3://bucket/0.tar", "file:/etc/0.tar", "/etc/photos.zip", "gs://b/{0..3}.tar", "http://x.org/a.zip"]
)
def test_callers_name_only_public_data(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    public = ["hf://owner/name@main:train[:50]", "https://example.org/photos.zip"]
    assert [each.source for each in in_config(sources=public).sources] == public
    with pytest.raises(NotAllowed, match="^sources: .*neither an https URL nor a dataset.*CALLERS_MAY_SET=sources"):
        in_config(sources=[*public, {"source": source, "weight": 2}])
    monkeypatch.setenv("CALLERS_MAY_SET", "sources")
    assert in_config(sources=[source]).named_sources == (source,)


@pytest.mark.parametrize("name", [name for name in LIST_OF if name in TrainingConfig.model_fields])
@pytest.mark.parametrize("text", ["someone/model", "/etc/passwd", "../../etc", "mini-sdxl/../x", "assets/mini-sdxl"])
def test_a_model_is_on_the_list_or_refused(name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {name: text} | ({"evaluate": "true"} if name.startswith("evaluation") else {})
    with pytest.raises(NotAllowed, match=f"^{name}: .*is not one of the models.*{LIST_OF[name]}"):
        in_config(**given)
    monkeypatch.setenv(LIST_OF[name], "someone/*, stabilityai/*")
    if text == "someone/model":
        assert getattr(in_config(**given), name) == text


@pytest.mark.parametrize("name", [name for name in LIST_OF if name in marks_of(PredictionInputs)])
def test_a_model_of_a_prediction_is_on_the_list_or_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("someone/model", "/etc/passwd"):
        with pytest.raises(NotAllowed, match=f"^{name}: .*ALLOWED_BASE_MODELS"):
            prediction(**{name: text})
    monkeypatch.setenv("ALLOWED_BASE_MODELS", "someone/* /models/*")
    with pytest.raises(NotAllowed) as refused:
        prediction(**{name: "other/model"})
    assert "someone/*" in str(refused.value) and "/models" not in str(refused.value)  # no folders are shown


@pytest.mark.parametrize(
    ("given", "variable"),
    [
        ({"max_train_steps": 1_000_000}, "LIMIT_MAX_TRAIN_STEPS"),
        ({"max_train_epochs": 50_000}, "LIMIT_MAX_TRAIN_EPOCHS"),
        ({"max_train_minutes": 5_000}, "LIMIT_MAX_TRAIN_MINUTES"),
        ({"train_batch_size": 1024}, "LIMIT_TRAIN_BATCH_SIZE"),
        ({"gradient_accumulation_steps": 1024}, "LIMIT_GRADIENT_ACCUMULATION_STEPS"),
        ({"rank": 1024}, "LIMIT_RANK"),
        ({"train_text_encoder": True, "text_encoder_rank": 1024}, "LIMIT_TEXT_ENCODER_RANK"),
        ({"resolution": 4096}, "LIMIT_PIXELS"),
        ({"augmented_views": 64, "crop_jitter": 0.1}, "LIMIT_AUGMENTED_VIEWS"),
        ({"concepts": [{"trigger_word": f"T{i}"} for i in range(60)]}, "LIMIT_CONCEPTS"),
        ({"sources": ["hf://a/b"] * 30}, "LIMIT_SOURCES"),
        ({"filters": ["width > 1"] * 60}, "LIMIT_FILTERS"),
        ({"prior_prompts": ["a"] * 200, "prior_matching_weight": 1}, "LIMIT_PRIOR_PROMPTS"),
        ({"target_prompts": ["a sketch of TOK"] * 30, "prompt_alignment_weight": 0.3}, "LIMIT_TARGET_PROMPTS"),
        ({"num_class_images": 9_000, "class_word": "dog"}, "LIMIT_NUM_CLASS_IMAGES"),
        ({"num_validation_images": 64}, "LIMIT_NUM_VALIDATION_IMAGES"),
        ({"validation_prompts": ["a"] * 9}, "LIMIT_VALIDATION_PROMPTS"),
        ({"num_inference_steps": 1000}, "LIMIT_NUM_INFERENCE_STEPS"),
        ({"evaluation_checkpoints": 50, "evaluation_samples": 16, "evaluate": "true"}, "LIMIT_EVALUATION_PICTURES"),
        ({"keep_checkpoints": 100, "checkpointing_steps": 5}, "LIMIT_KEEP_CHECKPOINTS"),
        ({"num_workers": 256}, "LIMIT_NUM_WORKERS"),
        ({"max_archive_files": 10**7}, "LIMIT_MAX_ARCHIVE_FILES"),
        ({"max_file_bytes": 10**12}, "LIMIT_MAX_FILE_BYTES"),
        ({"max_archive_bytes": 10**13}, "LIMIT_MAX_ARCHIVE_BYTES"),
        ({"max_compression_ratio": 1e6}, "LIMIT_MAX_COMPRESSION_RATIO"),
        ({"max_image_pixels": 10**10}, "LIMIT_MAX_IMAGE_PIXELS"),
    ],
)
def test_a_limit_holds_until_the_operator_raises_it(
    given: dict[str, Any], variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotAllowed, match=f"exceeds the operator's limit of .*\\({variable}: ") as refused:
        in_config(**given)
    assert any(name in str(refused.value) for name in given)
    monkeypatch.setenv(variable, "1_000_000_000_000_000")
    assert in_config(**given)


def test_every_limit_of_a_training_is_in_the_test_above() -> None:
    (parametrized,) = (
        mark for mark in test_a_limit_holds_until_the_operator_raises_it.pytestmark if mark.name == "parametrize"
    )
    tested = {variable for _, variable in parametrized.args[1]}
    assert tested == LIMITS.keys() - {"LIMIT_JOB_MINUTES", "LIMIT_NUM_OUTPUTS"}


def test_a_default_above_a_limit_gives_way(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("MAX_ARCHIVE_FILES", "MAX_TRAIN_STEPS", "NUM_VALIDATION_IMAGES", "KEEP_CHECKPOINTS"):
        monkeypatch.setenv(f"LIMIT_{name}", "2")
    config = in_config(checkpointing_steps=1)
    assert (config.max_archive_files, config.max_train_steps, config.num_validation_images) == (2, 2, 2)
    assert config.keep_checkpoints == 2
    assert "num_validation_images: set to 2, the operator's limit" in capsys.readouterr().out
    assert in_config().keep_checkpoints is None  # it has no effect without checkpoints
    assert in_config(max_train_epochs=3).max_train_steps is None
    with pytest.raises(NotAllowed, match="LIMIT_MAX_TRAIN_STEPS"):
        in_config(max_train_steps=3)


def test_pixels_and_steps_of_a_prediction_are_limited() -> None:
    for given in ({"width": 4096}, {"height": 4096}, {"width": 2048, "height": 2064}):
        with pytest.raises(NotAllowed, match="width, height: .*LIMIT_PIXELS"):
            prediction(**given)
    assert prediction(width=4096, height=512).width == 4096
    with pytest.raises(NotAllowed, match="num_inference_steps: 500 exceeds .*LIMIT_NUM_INFERENCE_STEPS"):
        prediction(num_inference_steps=500)
    with pytest.raises(NotAllowed, match="LIMIT_PIXELS"):
        Policy.from_environment().require_pixels(4096, 4096)


def test_all_that_is_refused_is_said_at_once() -> None:
    with pytest.raises(NotAllowed) as refused:
        in_config(compile_cache="/x", compile="auto", rank=1000, mask_model="a/b")
    assert {line.partition(":")[0] for line in str(refused.value).splitlines()} == {
        "compile_cache", "rank", "mask_model"
    }  # fmt: skip


def test_trusted_callers_may_do_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUSTED_CALLERS", "1")
    config = in_config(
        compile_cache="/x", compile="auto", rank=1000, captioner="a/b", trackers=["wandb"], push_to_hub="a/b"
    )
    assert config.max_train_minutes is None and config.rank == 1000
    assert prediction(base_model="/x", width=4096, height=4096).base_model == "/x"
    assert Policy.from_environment().job_seconds == float("inf")


def test_the_operators_safety_checker_is_compulsory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUIRED_SAFETY_CHECKER", "/models/checker")
    for trusted in ("0", "1"):
        monkeypatch.setenv("TRUSTED_CALLERS", trusted)
        assert prediction().safety_checker == prediction(safety_checker="").safety_checker == "/models/checker"
        with pytest.raises(NotAllowed, match="REQUIRED_SAFETY_CHECKER"):
            prediction(safety_checker="CompVis/stable-diffusion-safety-checker")


def test_publishing_needs_an_allowed_target_and_the_callers_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_operator")
    with pytest.raises(NotAllowed) as refused:
        in_config(push_to_hub="me/robot")
    assert "ALLOWED_HUB_TARGETS" in str(refused.value) and "hf_token" in str(refused.value)
    monkeypatch.setenv("ALLOWED_HUB_TARGETS", "me/*")
    with pytest.raises(NotAllowed, match="needs your own token"):
        in_config(push_to_hub="me/robot")
    with pytest.raises(NotAllowed, match="you/robot is not one of"):
        training(config="push_to_hub: you/robot", hf_token="hf_caller")
    assert training(config="push_to_hub: me/robot", hf_token="hf_caller").push_to_hub == "me/robot"


def test_wandb_needs_the_callers_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotAllowed, match="trackers: wandb .*wandb_api_key.*CALLERS_MAY_SET=trackers"):
        in_config(trackers=["wandb"])
    assert in_config(trackers=["tensorboard"]).trackers == ("tensorboard",)
    assert training(config="trackers: [wandb]", wandb_api_key="k").trackers == ("wandb",)
    monkeypatch.setenv("CALLERS_MAY_SET", "trackers")
    assert in_config(trackers=["wandb"]).trackers == ("wandb",)


def test_an_upload_is_no_path_of_the_server(tmp_path: Path) -> None:
    upload = tmp_path / "prior.zip"
    assert training(preservation_data=upload).preservation_data == upload
    with pytest.raises(ConfigError, match="preservation_data: '/etc/passwd' is not an upload"):
        training(preservation_data="/etc/passwd")
    with pytest.raises(ConfigError, match="leave one of them out"):
        training(preservation_data=upload, config="preservation_data: /etc/passwd")


def test_secrets_reach_the_child_by_its_environment_alone() -> None:
    request = training_request(hf_token="hf_caller", wandb_api_key="callers-key")
    secrets = secrets_of(request)
    operators = {
        "HF_TOKEN": "hf_operator", "WANDB_API_KEY": "o", "WANDB_ENTITY": "o", "WANDB_BASE_URL": "http://o",
        "WANDB_MODE": "offline", TOKEN_VARIABLE: "left over",
    }  # fmt: skip
    child = child_environment(secrets, operators)
    assert child == {
        "HF_TOKEN": "hf_operator", "WANDB_API_KEY": "callers-key", "WANDB_MODE": "offline", TOKEN_VARIABLE: "hf_caller"
    }  # fmt: skip
    assert TOKEN_VARIABLE not in child_environment(secrets_of(training_request()), operators)
    for shown in (repr(request), repr(secrets), secrets.masked("401 for hf_caller, callers-key")):
        assert "hf_caller" not in shown and "callers-key" not in shown
    assert secrets.masked("hf_caller") == MASK
    for secret in ("hf_token", "wandb_api_key"):
        with pytest.raises(ConfigError, match=f"{secret} has no effect"):
            require_useful(secrets_of(training_request(**{secret: "x"})), None, ())


def test_a_job_that_takes_too_long_is_an_error_that_names_the_limit(capsys: pytest.CaptureFixture[str]) -> None:
    class Impatient(Policy):
        job_seconds = 1.0

    policy = Policy.from_environment()
    impatient = Impatient(**{field.name: getattr(policy, field.name) for field in dataclasses.fields(policy)})
    program = "import time; print('said hf_caller', flush=True); time.sleep(60)"
    job = ChildProcess.start([sys.executable, "-c", program])
    try:
        with pytest.raises(TrainingFailed, match="480 minutes, the operator's limit .LIMIT_JOB_MINUTES."):
            _relay(job, impatient, Secrets(hub_token="hf_caller"))
    finally:
        job.stop()
    assert capsys.readouterr().out == f"said {MASK}\n"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TRUSTED_CALLERS", "maybe"),
        ("LIMIT_RANK", "-3"),
        ("LIMIT_RANK", "many"),
        ("CALLERS_MAY_SET", "rank"),
        ("LIMIT_RANKS", "8"),
        ("LIMIT_MAX_STEPS", "8"),
        ("LIMIT_GPU", "8"),
    ],
)
def test_a_variable_that_cannot_be_understood_is_an_error(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=variable):
        Policy.from_environment()


def test_the_tables_of_the_page_are_the_policy() -> None:
    text = TARGET.read_text(encoding="utf-8")
    assert text == page(text), "run: python -m tools.policy_table"
    for variable in (TRUSTED, MAY_SET, TOKENS, HUB_TARGETS, REQUIRED_CHECKER, *MODEL_LISTS, *LIMITS):
        assert f"| `{variable}` |" in text
