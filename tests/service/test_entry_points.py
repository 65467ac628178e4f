"""Tests that the entry points declare the same inputs as TrainingConfig, and that cog.yaml is valid."""

import ast
import dataclasses
import inspect
import typing
from pathlib import Path
from typing import Any

import pytest
import yaml
from cog import Path as CogPath

import predict
import train
from job.output_folder import OutputFolder
from sampler.images.files import OUTPUT_FORMATS
from sampler.request import ASPECT_RATIOS
from sampler.schedulers import BASE_SCHEDULER, SCHEDULERS
from service.prediction_inputs import PredictionInputs
from service.prediction_options import PredictionOptions
from service.training_request import TrainingRequest, merge_inputs, require_uploaded
from settings.field_types import bounds_of, field_type
from settings.record import ConfigError
from settings.training import TrainingConfig
from tests.conftest import PROJECT
from tests.service.training_requests import TRAIN_INPUTS, training_request


@pytest.mark.parametrize("name", TRAIN_INPUTS)
def test_a_cog_input_is_the_setting_of_that_name(name: str) -> None:
    parameter, field = TRAIN_INPUTS[name], TrainingConfig.model_fields[name]
    cog_input = parameter.default
    assert cog_input.default == field.default
    annotation, wanted = parameter.annotation, field.annotation
    if typing.get_origin(wanted) is typing.Literal:
        assert (annotation, tuple(cog_input.choices)) == (str, typing.get_args(wanted))
    elif name == "resolution":  # the input is one number; several are given in the text of config
        assert set(typing.get_args(annotation)) == {int, type(None)} and field_type(wanted).word == "INT"
    else:
        assert set(typing.get_args(annotation) or [annotation]) == set(typing.get_args(wanted) or [wanted])
    for bound in bounds_of(field).keys() & {"ge", "le"}:
        assert getattr(cog_input, bound) == bounds_of(field)[bound]


def test_the_request_has_the_inputs_of_the_signature() -> None:
    names = list(inspect.signature(train.Trainer.train).parameters)
    assert {field.name for field in dataclasses.fields(TrainingRequest)} == {*names} - {"self", "return_extras"}


@pytest.mark.parametrize("learned", [True, False])
def test_extras_are_only_files_that_exist(learned: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training without tokens, as on FLUX, has no embeddings, and Cog fails for a file that does not exist."""
    output = OutputFolder(tmp_path)
    output.samples.mkdir()
    for path in (output.weights, output.page, output.report, output.samples / "00.png"):
        path.touch()
    if learned:
        output.embeddings.touch()
    monkeypatch.setattr("service.cog_training.train_in_child_process", lambda request: output)
    inputs: dict[str, Any] = {name: parameter.default.default for name, parameter in TRAIN_INPUTS.items()}
    inputs |= dict.fromkeys(("config", "preset", "preservation_data", "hf_token", "wandb_api_key"))
    returned = train.Trainer().train(input_images=CogPath("x"), return_extras=True, **inputs)
    assert (returned.embeddings is not None) == learned
    files = [returned.weights, returned.report, *(returned.samples or []), returned.embeddings or returned.weights]
    assert all(file is not None and file.exists() for file in files)


def test_an_input_left_at_its_default_gives_way_to_the_config_text() -> None:
    merged = merge_inputs(training_request(seed=3, config="rank: 4\nweight_decay: 0"))
    assert (merged["rank"], merged["seed"], merged["weight_decay"]) == (4, 3, 0)
    with pytest.raises(ConfigError, match="seed: the input is 3, and config has 4"):
        merge_inputs(training_request(seed=3, config="seed: 4"))


@pytest.mark.parametrize("name", ["input_images", "preservation_data"])
@pytest.mark.parametrize("value", [None, "/etc/passwd", "file:///etc/passwd"])
def test_only_uploads_are_taken(value: object, name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        require_uploaded(name, value)


def test_the_schedulers_offered_are_those_that_exist() -> None:
    parameter = inspect.signature(predict.Predictor.run).parameters["scheduler"]
    assert parameter.default.choices == [BASE_SCHEDULER, *sorted(SCHEDULERS)]


PREDICT_INPUTS = {
    name: parameter
    for name, parameter in inspect.signature(predict.Predictor.run).parameters.items()
    if name not in ("self", "prompt")
}


def test_cog_and_the_command_take_the_same_inputs_of_the_predictor() -> None:
    fields = {field.name: field.default for field in dataclasses.fields(PredictionInputs)}
    del fields["prompt"]
    cog_inputs = {name: parameter.default.default for name, parameter in PREDICT_INPUTS.items()}
    options = {name: field.default for name, field in PredictionOptions.model_fields.items()}
    assert cog_inputs == fields == options


@pytest.mark.parametrize("name", PREDICT_INPUTS)
def test_an_option_of_the_command_has_the_bounds_and_choices_of_the_cog_input(name: str) -> None:
    cog_input, field = PREDICT_INPUTS[name].default, PredictionOptions.model_fields[name]
    bounds = {
        bound: getattr(entry, bound) for entry in field.metadata for bound in ("ge", "le") if hasattr(entry, bound)
    }
    for bound in ("ge", "le"):
        assert bounds.get(bound) == getattr(cog_input, bound)
    assert list(field_type(field.annotation).choices) == list(cog_input.choices or [])


def test_the_aspect_ratios_offered_are_those_that_exist() -> None:
    assert PREDICT_INPUTS["aspect_ratio"].default.choices == list(ASPECT_RATIOS)


def test_the_formats_offered_are_those_that_exist() -> None:
    assert PREDICT_INPUTS["output_format"].default.choices == list(OUTPUT_FORMATS)


def test_cog_yaml() -> None:
    config = yaml.safe_load((PROJECT / "cog.yaml").read_text())
    assert config.keys() == {"build", "environment", "run", "train"}
    assert config["build"].keys() <= {
        "gpu",
        "cuda",
        "cudnn",
        "python_version",
        "python_requirements",
        "run",
        "sdk_version",
        "system_packages",
    }
    assert isinstance(config["build"]["python_version"], str)  # 3.10 as a number is 3.1
    assert (PROJECT / config["build"]["python_requirements"]).exists()
    for reference in (config["run"], config["train"]):
        file, name = reference.split(":")
        assert f"class {name}" in (PROJECT / file).read_text()


@pytest.mark.parametrize(("file", "function"), [("train.py", "train"), ("predict.py", "run")])
def test_cog_can_read_the_signature_without_running_it(file: str, function: str) -> None:
    """Cog parses the source. It ignores a default that is not a literal, and the input becomes required."""
    tree = ast.parse((PROJECT / file).read_text())
    definition = next(
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name == function and len(node.args.args) > 1
    )
    arguments = definition.args.args[1:]
    assert len(arguments) == len(definition.args.defaults) and definition.returns is not None
    for argument, default in zip(arguments, definition.args.defaults, strict=True):
        assert isinstance(default, ast.Call) and ast.unparse(default.func) == "Input" and not default.args
        options = {keyword.arg: ast.literal_eval(keyword.value) for keyword in default.keywords}
        if "default" in options and options["default"] is None:
            assert argument.annotation is not None and "Optional" in ast.unparse(argument.annotation)
