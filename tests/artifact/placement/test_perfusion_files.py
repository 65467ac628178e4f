"""Tests of Perfusion's edits against their definition, of its files on the embedded base, and of refused files."""

from dataclasses import replace
from math import exp
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from artifact.artifact import Artifact
from artifact.command_line import main
from artifact.errors import ArtifactError
from artifact.layers import Gate, GatedLayer
from artifact.layers.gated import KEY
from artifact.metadata import ArtifactDescription
from artifact.names.components import DENOISER, Place, place_names
from artifact.placement.gated import KEYS, LEAST_ENERGY, VALUES, GatedEdits, Words
from artifact.placement.placing import PlacedArtifacts
from artifact.prompt_states import prompt_states
from families.family import ModelFamily
from families.loading.sources import EMBEDDED_BASE
from families.registry import load_base_model
from tests.tiny_models import write_sd15

WIDTH, OUT = 6, 4
BIAS, TEMPERATURE = 0.75, 0.1


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def moments(width: int) -> Tensor:
    states = random(5 * width, width, seed=9).double() + 1
    return states.T @ states


def gate_of(words: Tensor, classes: Tensor) -> Gate:
    directions = torch.linalg.solve(moments(words.shape[1]), words.double().T).T
    return Gate(words, directions.float(), classes, BIAS, TEMPERATURE)


class Block(nn.Module):
    """Keys and values of cross-attention, with the names of a UNet."""

    def __init__(self) -> None:
        super().__init__()
        self.attn2 = nn.ModuleDict({name: nn.Linear(WIDTH, OUT, bias=False) for name in ("to_k", "to_v")})
        for number, parameter in enumerate(self.parameters()):
            parameter.data = random(OUT, WIDTH, seed=20 + number)


def edited(
    inputs: Tensor, classes: Tensor, outputs: Tensor, states: Tensor
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Return the weights W by path, and the keys and the values of `states` with the edits."""
    model, gate = nn.ModuleDict({"block": Block()}), gate_of(inputs, classes)
    edits = GatedEdits(model, Words.of([gate], [1.0]), gate.targets)
    edits.outputs["block" + VALUES].copy_(outputs)
    keys, values = (model.get_submodule("block" + path) for path in (KEYS, VALUES))
    found = keys(states), values(states)
    edits.remove()
    weights: dict[str, Tensor] = {path: model.get_parameter(f"block{path}.weight") for path in (KEYS, VALUES)}
    assert torch.equal(values(states), nn.functional.linear(states, weights[VALUES]))
    return weights, *found


def test_it_is_the_papers_formula_one_number_after_the_other() -> None:
    """out = W e - (eᵀu / E) W i* + sigmoid((eᵀu / E - β) / τ) o*, with u = C⁻¹ i* and E = i*ᵀ u."""
    word, classes, outputs = random(1, WIDTH, seed=1), random(1, WIDTH, seed=2), random(1, OUT, seed=3)
    states = torch.cat([random(1, 3, WIDTH, seed=4), word[None], 0.8 * word[None]], dim=1)
    weights, keys, values = edited(word, classes, outputs, states)
    direction = (torch.linalg.inv(moments(WIDTH)) @ word[0].double()).tolist()
    energy = sum(a * b for a, b in zip(word[0].tolist(), direction, strict=True))
    for found, path, own in ((keys, KEYS, None), (values, VALUES, outputs[0])):
        weight = weights[path]
        target = weight @ classes[0] if own is None else own  # keys: locked to the class word's
        for position in range(states.shape[1]):
            ratio = sum(a * b for a, b in zip(states[0, position].tolist(), direction, strict=True)) / energy
            opened = 1 / (1 + exp(-(ratio - BIAS) / TEMPERATURE))
            wanted = weight @ states[0, position] - ratio * (weight @ word[0]) + opened * target
            torch.testing.assert_close(found[0, position], wanted, rtol=1e-4, atol=1e-4)
    opened = 1 / (1 + exp(-2.5))
    torch.testing.assert_close(values[0, 3], opened * outputs[0], rtol=1e-4, atol=1e-4)  # e = i*: no W e


def test_what_is_orthogonal_to_a_word_in_the_metric_of_c_is_left_alone() -> None:
    word, classes, outputs = random(1, WIDTH, seed=1), random(1, WIDTH, seed=2), random(1, OUT, seed=3)
    direction = torch.linalg.solve(moments(WIDTH), word[0].double()).float()
    state = random(WIDTH, seed=5)
    state = state - (state @ direction) / (direction @ direction) * direction
    weights, keys, values = edited(word, classes, outputs, state.reshape(1, 1, WIDTH))
    for found, path in ((keys, KEYS), (values, VALUES)):
        plain = weights[path] @ state
        torch.testing.assert_close(found[0, 0], plain, rtol=0, atol=10 / (1 + exp(7.5)))


def test_the_positions_after_a_word_are_as_in_the_class_words_prompt_with_values_of_their_own() -> None:
    """out = W (e - c₁ i* - c₂ d) + g₁ o₁ + g₂ o₂, with the components c of e along i* and d in the metric of C⁻¹."""
    word, difference = random(1, WIDTH, seed=1), 40 * random(1, WIDTH, seed=6)
    classes, outputs = random(1, WIDTH, seed=2), random(2, OUT, seed=3)
    after_class = random(WIDTH, seed=7)
    states = torch.stack([word[0], after_class + difference[0], after_class, random(WIDTH, seed=8)])
    weights, keys, values = edited(torch.cat([word, difference]), classes, outputs, states[None])
    inverse = torch.linalg.inv(moments(WIDTH)).tolist()

    def product(a: Tensor, b: Tensor) -> float:
        return sum(a[i].item() * inverse[i][j] * b[j].item() for i in range(WIDTH) for j in range(WIDTH))

    i, d = word[0], difference[0]
    ii, dd, mixed = product(i, i), product(d, d), product(i, d)
    assert dd > LEAST_ENERGY
    for found, path, own in ((keys, KEYS, [classes[0], None]), (values, VALUES, [*outputs])):
        weight = weights[path]
        for position, state in enumerate(states):
            along_i, along_d = product(state, i), product(state, d)
            c_i = (along_i * dd - along_d * mixed) / (ii * dd - mixed**2)
            c_d = (along_d * ii - along_i * mixed) / (ii * dd - mixed**2)
            wanted = weight @ (state - c_i * i - c_d * d)
            for target, ratio in zip(own, (along_i / ii, along_d / dd), strict=True):
                opened = 1 / (1 + exp(-(ratio - BIAS) / TEMPERATURE))
                if target is not None:  # the keys' own vector for later positions is 0
                    wanted = wanted + opened * (weight @ target if path == KEYS else target)
            torch.testing.assert_close(found[0, position], wanted, rtol=1e-3, atol=1e-3)


def test_a_difference_too_small_to_be_told_from_other_words_has_next_to_no_effect() -> None:
    word, classes, states = random(1, WIDTH, seed=1), random(1, WIDTH, seed=2), random(1, 5, WIDTH, seed=4)
    outputs = random(2, OUT, seed=3)
    _, keys, values = edited(word, classes, outputs[:1], states)
    for size in (0.0, 1e-4):
        _, *found = edited(torch.cat([word, size * random(1, WIDTH, seed=6)]), classes, outputs, states)
        closed = 1 / (1 + exp(BIAS / TEMPERATURE)) * outputs[1]
        torch.testing.assert_close(found[0], keys, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found[1], values + closed, rtol=1e-4, atol=1e-4)


def test_two_words_are_both_taken_away_and_each_brings_its_own() -> None:
    words, classes, outputs = random(2, WIDTH, seed=1), random(2, WIDTH, seed=2), random(2, OUT, seed=3)
    words[1] += 0.5 * words[0]  # not orthogonal
    _, _, values = edited(words, classes, outputs, words[None])
    directions = torch.linalg.solve(moments(WIDTH), words.double().T).T
    ratios = words.double() @ directions.T / (words.double() * directions).sum(1)
    opened = torch.sigmoid((ratios - BIAS) / TEMPERATURE).float()
    torch.testing.assert_close(values[0], opened @ outputs, rtol=1e-3, atol=1e-3)


def file_on(base: ModelFamily, path: Path, word: str, trigger: str = "TOK", seed: int = 0, later: bool = False) -> Path:
    """Write a file for a token with the embeddings of the known `word`, as training would. `later`: with rows for the
    positions after the word, which files of earlier versions do not have."""
    ids = [tokenizer(word, add_special_tokens=False).input_ids[-1] for tokenizer in base.tokenizers]
    rows = {name: encoder.get_input_embeddings().weight[[own]].detach()
            for name, encoder, own in zip(base.encoder_names, base.text_encoders, ids, strict=True)}  # fmt: skip
    inputs, class_state = (prompt_states(base, [f"a photo of a {each}"])[0] for each in (word, "figure"))
    state = inputs[5:6]
    if later:
        state = torch.cat([state, (inputs[6:] - class_state[6:]).mean(0, keepdim=True)])
    captions = prompt_states(base, ["a photo of a heart on a red background", "a photo of a star", "a photo of a ring"])
    flat = captions.flatten(0, 1).double()
    spread = flat.T @ flat / len(flat) + 1e-4 * torch.eye(flat.shape[1], dtype=torch.float64)
    directions = torch.linalg.solve(spread, state.double().T).T.float()
    gate = Gate(state, directions, class_state[5:6], BIAS, TEMPERATURE)
    names = place_names(base)
    layers = {
        names[Place(DENOISER, name)]: GatedLayer(random(len(state), module.weight.shape[0], seed=seed), gate)
        for name, module in base.denoiser.named_modules()
        if name.endswith(VALUES)
    }
    description = ArtifactDescription(base.name, "mini-sdxl", "", "epsilon", {trigger: ["<s0>"]}, 1)
    artifact = Artifact(layers, rows, description)
    artifact.write(path, "fp16", architecture=base.architecture, base_model_version=base.base_model_version)
    return path


@pytest.fixture(scope="module")
def two(_loaded_base: ModelFamily, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("perfusion")
    return (file_on(_loaded_base, folder / "star.safetensors", "star"),
            file_on(_loaded_base, folder / "robot.safetensors", "ring", "zwx", seed=50, later=True))  # fmt: skip


def outputs_of(base: ModelFamily, states: Tensor) -> Tensor:
    """Return the outputs of the layer for values in the middle of the UNet: (L, out)."""
    path = next(name for name, _ in base.denoiser.named_modules() if "mid_block" in name and name.endswith(VALUES))
    found: Tensor = base.denoiser.get_submodule(path)(states)
    return found.detach()


def test_two_files_change_their_own_words_and_leave_the_base_as_it_was(
    two: tuple[Path, Path], base: ModelFamily
) -> None:
    files = [Artifact.read(path) for path in two]
    plain = prompt_states(base, ["a photo of a heart on a red background"])[0]
    before = outputs_of(base, plain)
    own = [layer.gate.inputs for file in files for layer in list(file.layers.values())[:1]
           if isinstance(layer, GatedLayer) and layer.gate is not None]  # fmt: skip
    placed = PlacedArtifacts(base, files)
    try:
        assert set(placed.triggers) == {"TOK", "zwx"}
        changed = (outputs_of(base, plain) - before).norm() / before.norm()
        assert 0 < changed < 0.05  # the prompt has the words of neither file
        for file, state in zip(files, own, strict=True):
            (layer,) = [each for name, each in file.layers.items() if "middle_block" in name]
            assert isinstance(layer, GatedLayer)
            target = layer.outputs.float()
            assert torch.nn.functional.cosine_similarity(outputs_of(base, state), target).min() > 0.98
        placed.set_scales(0.0, 0.0)
        torch.testing.assert_close(outputs_of(base, plain), before)
    finally:
        placed.remove()
    assert torch.equal(outputs_of(base, plain), before)
    assert not any(module._forward_hooks for module in base.denoiser.modules())


def test_the_file_keeps_gate_and_outputs(two: tuple[Path, Path], base: ModelFamily, tmp_path: Path) -> None:
    read = Artifact.read(two[0])
    again = tmp_path / "again.safetensors"
    read.write(again, "fp16", architecture="a", base_model_version="b")
    layers = Artifact.read(again).layers
    assert layers.keys() == read.layers.keys() and len(layers) > 2
    for name, layer in layers.items():
        same = read.layers[name]
        assert isinstance(layer, GatedLayer) and isinstance(same, GatedLayer)
        assert layer.gate is not None and same.gate is not None
        assert torch.equal(layer.outputs, same.outputs) and torch.equal(layer.gate.directions, same.gate.directions)
        assert (layer.gate.bias, layer.gate.temperature) == (BIAS, TEMPERATURE)


@pytest.mark.parametrize(
    "command",
    [
        ["convert", "{file}", "{out}", "--format", "kohya"],
        ["resize", "{file}", "{out}", "--rank", "4", "--base", EMBEDDED_BASE],
        ["merge", "{file}", "{other}", "--weights", "1", "1", "--output", "{out}"],
        ["merge", "{file}", "--weights", "1", "--onto", EMBEDDED_BASE, "--output", "{out}"],
    ],
    ids=lambda command: " ".join(command[:1]),
)
def test_what_needs_a_change_of_weights_refuses_it_in_one_line(
    command: list[str], two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [part.format(file=two[0], other=two[1], out=tmp_path / "out.safetensors") for part in command]
    assert main(filled) != 0
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "star.safetensors is an edit by Perfusion" in line and "predict.py generates images" in line
    assert not (tmp_path / "out.safetensors").exists()


def test_inspecting_it_says_what_opens_it(two: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(two[0])]) == 0
    said = capsys.readouterr().out
    assert "perfusion" in said and "only predict.py opens it" in said


def test_on_another_family_or_width_it_is_refused(two: tuple[Path, Path], base: ModelFamily, tmp_path: Path) -> None:
    file = Artifact.read(two[0])
    with pytest.raises(ArtifactError, match="do not exist in this base model"):
        PlacedArtifacts(load_base_model(str(write_sd15(tmp_path / "sd15")), torch.float32), [file])
    narrow = {name: narrowed(layer) for name, layer in file.layers.items() if isinstance(layer, GatedLayer)}
    with pytest.raises(ArtifactError, match=r"\(1, 5\) do not match the base model's \(\d+, 160\)"):
        PlacedArtifacts(base, [replace(file, layers=narrow)])
    names = place_names(base)
    odd = next(name for place, name in names.items() if place.path.endswith(".attn2.to_k"))
    layer = next(iter(file.layers.values()))
    assert isinstance(layer, GatedLayer)
    fitting = replace(layer, outputs=random(1, 64))
    with pytest.raises(ArtifactError, match="to_k does not read the prompt"):
        PlacedArtifacts(base, [replace(file, layers={odd: fitting})])
    assert not any(module._forward_hooks for module in base.denoiser.modules())


def narrowed(layer: GatedLayer) -> GatedLayer:
    assert layer.gate is not None
    states = {name: getattr(layer.gate, name)[:, :5] for name in ("inputs", "directions", "classes")}
    states["directions"] = states["inputs"]
    return replace(layer, gate=replace(layer.gate, **states))


def damaged(path: Path, target: Path, **changes: Any) -> Path:
    """Copy the file without its header, which contains the gate. `changes`: other tensors."""
    save_file(load_file(path) | changes, target)
    return target


def test_a_damaged_file_is_named(two: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"bare\.safetensors: lora_trainer\.perfusion in its header is missing"):
        Artifact.read(damaged(two[0], tmp_path / "bare.safetensors"))
    name = next(iter(load_file(two[0])))
    with pytest.raises(ArtifactError, match=rf"{KEY} of shape \(3,\)"):
        Artifact.read(damaged(two[0], tmp_path / "flat.safetensors", **{name: torch.zeros(3)}))
    with pytest.raises(ArtifactError, match="a direction whose product with the state of its own word is not positive"):
        Gate(torch.ones(1, 3), -torch.ones(1, 3), torch.ones(1, 3), BIAS, TEMPERATURE)
    for rows in (1, 3):  # neither one for each of two words, nor two
        with pytest.raises(ArtifactError, match=r"states of different shapes"):
            Gate(torch.ones(rows, 3), torch.ones(rows, 3), torch.ones(2, 3), BIAS, TEMPERATURE)
