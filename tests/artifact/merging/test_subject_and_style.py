"""Tests of K-LoRA, ZipLoRA and the closed form: their definitions on small layers, and files for the embedded base."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from artifact.artifact import Artifact
from artifact.command_line import main
from artifact.errors import ArtifactError
from artifact.layers import Layer, LoraLayer, TimedLoraLayer
from artifact.merging import closed_form as closed_form_module
from artifact.merging import ziplora as zip_module
from artifact.merging.closed_form import constrained_change
from artifact.merging.klora import klora
from artifact.merging.merge import Mode, merge
from artifact.merging.plain import concatenated
from artifact.merging.ziplora import Factors, objective
from artifact.metadata import ArtifactDescription
from artifact.placement.placing import PlacedArtifacts
from artifact.prompt_states import vocabulary_words, word_states
from families.family import ModelFamily
from tests.trainer.adapters.test_adapters import adapted, config, disturb

WEIGHTS = (0.8, 1.2)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def lora(rank: int, seed: int, size: float = 1.0) -> LoraLayer:
    return LoraLayer(random(rank, 6, seed=seed), size * random(5, rank, seed=seed + 1), float(rank))


def test_the_constrained_change_is_the_smallest_of_all_that_meet_the_targets() -> None:
    """After whitening by C = L Lᵀ, it is the least-norm solution: ΔW L is that of the pseudo-inverse."""
    states, targets, others = random(3, 8, seed=1), random(3, 5, seed=2), random(40, 8, seed=3)
    moments = (others.T @ others).double()
    down, up = constrained_change(targets, states, moments)
    change = up @ down
    torch.testing.assert_close(states @ change.T, targets, rtol=1e-4, atol=1e-4)
    root = torch.linalg.cholesky(moments)
    whitened = torch.linalg.solve(root, states.double().T)
    least = targets.double().T @ torch.linalg.pinv(whitened) @ torch.linalg.inv(root)
    torch.testing.assert_close(change.double(), least, rtol=1e-4, atol=1e-4)


def test_k_lora_takes_at_every_moment_what_its_rule_takes() -> None:
    subject = {f"layer{n}": lora(2, 10 * n, size) for n, size in enumerate([1.0, 1.0, 3.0, 0.02])}
    style = {f"layer{n}": lora(3, 100 * n + 7) for n in range(4)} | {"alone": lora(1, 5)}
    subject["huge"], style["huge"] = lora(2, 3, 90.0), lora(3, 4)
    layers, note = klora(subject, style)
    assert layers["alone"] is style["alone"] and "on average over 5 layers" in note
    changes = {name: (subject[name].up @ subject[name].down, style[name].up @ style[name].down) for name in subject}
    ratios = [float(one.abs().sum() / other.abs().sum()) for one, other in changes.values()]
    usual = [ratio for ratio in ratios if ratio < 3 * sum(ratios) / len(ratios)]
    assert len(usual) == 4  # without the huge one
    balance = sum(usual) / len(usual)
    taken = set()
    for name, (one, other) in changes.items():
        largest = [sum(sorted(map(abs, change.flatten().tolist()))[-6:]) for change in (one, other)]
        for tau in (0.0, 0.13, 0.37, 0.5, 0.77, 1.0):
            content = largest[0] / balance > largest[1] * (1.5 * (1 - tau) + 0.5)
            torch.testing.assert_close(at(layers[name], tau), one if content else other)
            taken.add((name, content))
    assert len(taken) > 6  # some layers change from the subject to the style


def at(layer: Layer, tau: float) -> Tensor:
    if isinstance(layer, LoraLayer):
        return layer.up @ layer.down
    assert isinstance(layer, TimedLoraLayer)
    acting = (layer.times[:, 0] <= tau) & (tau < layer.times[:, 1])
    return layer.direction.up * acting.float() @ layer.direction.down


@pytest.mark.parametrize("module", [nn.Linear(6, 5), nn.Conv2d(6, 5, 3, padding=1, stride=2)])
def test_zipped_factors_are_exactly_a_plain_lora(module: nn.Linear | nn.Conv2d) -> None:
    kernel = tuple(module.weight.shape[2:])
    parts = [LoraLayer(random(rank, 6, *kernel, seed=rank), random(5, rank, *(1 for _ in kernel), seed=rank + 9), rank)
             for rank in (2, 3)]  # fmt: skip
    factors = Factors(parts, [nn.Parameter(random(6, seed=20)), nn.Parameter(random(6, seed=21))])
    x = random(4, 6, *(8 for _ in kernel), seed=30)
    merged, total = factors.merged("layer"), concatenated("layer", parts)
    assert merged.rank == 5

    def through(layer: LoraLayer) -> Tensor:
        moved = module.weight.detach() + layer.delta(module.weight)
        if isinstance(module, nn.Conv2d):
            return nn.functional.conv2d(x, moved, module.bias, module.stride, module.padding)
        return nn.functional.linear(x, moved, module.bias)

    found = through(total) + factors.beyond_the_sum(x, module)
    torch.testing.assert_close(found, through(merged), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(merged.delta(module.weight), sum(
        part.delta(module.weight) * value.detach().reshape(1, -1, *(1 for _ in kernel))
        for part, value in zip(parts, factors.values, strict=True)
    ), rtol=1e-4, atol=1e-4)  # fmt: skip
    assert float(factors.overlap().detach()) == pytest.approx(
        float((random(6, seed=20) * random(6, seed=21)).abs().mean())
    )


def test_neither_many_layers_nor_small_distances_make_the_overlap_outweigh_what_is_learned() -> None:
    distance, overlaps = torch.tensor(0.004), [torch.tensor(0.5), torch.tensor(1.0)]
    found = objective(distance, 0.008, overlaps)
    assert float(found) == pytest.approx(0.5 + zip_module.OVERLAP * 0.75)
    assert torch.equal(objective(100 * distance, 0.8, 100 * overlaps), found)


@pytest.fixture
def two(base: ModelFamily, tmp_path: Path) -> Sequence[Path]:
    """Two files with the same trigger word and different ranks. They only share layers for keys and values."""
    paths = []
    for number, targets in enumerate(["cross-attention-kv", "attention"]):
        with adapted(base, config(rank=2 + number, lora_targets=targets, alpha=3.0)) as parts:
            disturb(parts)
            layers = {name: layer for name, layer in parts.layers().items() if number == 0 or "output_blocks" in name}
        rows = {name: 0.02 * random(1, encoder.config.hidden_size, seed=number)
                for name, encoder in zip(base.encoder_names, base.text_encoders, strict=True)}  # fmt: skip
        description = ArtifactDescription(base.name, "mini-sdxl", "", "epsilon", {"TOK": ["<s0>"]}, 1)
        paths.append(tmp_path / f"{number}.safetensors")
        Artifact(layers, rows, description).write(paths[-1], "fp32", architecture="a", base_model_version="b")
    return paths


def test_the_closed_form_does_for_each_word_what_its_file_does(
    two: Sequence[Path], base: ModelFamily, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(closed_form_module, "WORDS", 60)
    target = tmp_path / "merged.safetensors"
    command = ["merge", *map(str, two), "--weights", *map(str, WEIGHTS), "--output", str(target)]
    assert main([*command, "--mode", "closed-form", "--base", "mini-sdxl"]) == 0
    assert "have rank 2, one for each token" in capsys.readouterr().out
    files, merged = [Artifact.read(path) for path in two], Artifact.read(target)
    assert list(merged.triggers) == ["TOK", "TOK2"]
    placed = PlacedArtifacts(base, files, [0.0, 0.0])
    try:
        states = word_states(base, ["<s0>", "<s1>"])
    finally:
        placed.remove()
    assert [len(rows) for rows in states] == [1, 1]
    solved = [name for name in merged.layers if name.endswith(("attn2_to_k", "attn2_to_v"))]
    for name in solved:
        found = change(merged, name)
        for file, weight, rows in zip(files, WEIGHTS, states, strict=True):
            wanted = weight * rows @ change(file, name).T if name in file.layers else torch.zeros(1, len(found))
            torch.testing.assert_close(rows @ found.T, wanted, rtol=1e-3, atol=1e-3)
        assert merged.layers[name].rank == 2
    others = [name for name in merged.layers if name not in solved]
    assert solved and others
    for name in others:
        torch.testing.assert_close(change(merged, name), WEIGHTS[1] * change(files[1], name), rtol=1e-4, atol=1e-4)


def test_words_read_in_batches_have_the_states_of_words_read_alone(base: ModelFamily) -> None:
    prompts = [f"a photo of a {word}" for word in vocabulary_words(base.tokenizers[0], 40)] + ["a red star", ""]
    together = word_states(base, prompts)
    for prompt, rows in [*list(zip(prompts, together, strict=True))[::7], (prompts[-2], together[-2])]:
        (alone,) = word_states(base, [prompt])
        assert len(alone) == len(rows) == len(base.tokenizers[0](prompt).input_ids) - 2
        torch.testing.assert_close(rows, alone, rtol=1e-6, atol=1e-6)


def change(artifact: Artifact, name: str) -> Tensor:
    layer = artifact.layers[name]
    assert isinstance(layer, LoraLayer)
    return layer.scale * layer.up.float() @ layer.down.float()


@pytest.mark.slow
def test_zipping_comes_nearer_to_both_files_than_their_sum(
    two: Sequence[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zip_module, "STEPS", 8)
    monkeypatch.setattr(zip_module, "DRAWING_STEPS", 2)
    outcome = merge(two, WEIGHTS, tmp_path / "zip.safetensors", "ziplora", base="mini-sdxl")
    (note,) = [note for note in outcome.left_out if note.startswith("ziplora")]
    after, before = (
        float(text.split()[0].rstrip(";")) for text in (note.split("prompt is ")[1], note.split("sum it is ")[1])
    )
    assert 0 < after < 0.9 * before
    kinds = {(layer.kind, layer.rank) for layer in Artifact.read(tmp_path / "zip.safetensors").layers.values()}
    assert kinds == {("lora", 2), ("lora", 3), ("lora", 5)} and outcome.error > 0.01


@pytest.mark.parametrize(
    ("mode", "count", "given", "prompts", "message"),
    [
        ("ziplora", 2, None, [], "--mode ziplora: give --base"),
        ("klora", 1, None, [], "needs two files, a subject and a style; 1 were given"),
        (
            "klora",
            2,
            "mini-sdxl",
            [],
            "--base is only supported with --mode svd, ziplora and closed-form, not with klora",
        ),
        (
            "concat",
            2,
            None,
            ["a", "b"],
            "--prompts is only supported with --mode ziplora and closed-form, not with concat",
        ),
        ("closed-form", 2, "mini-sdxl", ["a"], "--prompts: 1 prompts for 2 files"),
        ("closed-form", 2, "mini-sdxl", ["a star", "a star"], "two files have the same words"),
    ],
)
def test_what_has_no_meaning_is_an_error(
    mode: Mode, count: int, given: str | None, prompts: list[str], message: str, two: Sequence[Path], tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match=message):
        merge(two[:count], WEIGHTS[:count], tmp_path / "merged.safetensors", mode, base=given, prompts=prompts)
    assert not (tmp_path / "merged.safetensors").exists()


def test_an_untrained_subject_gives_way_to_the_style() -> None:
    untrained = LoraLayer(torch.ones(2, 4), torch.zeros(4, 2), 2.0)
    style = LoraLayer(torch.ones(2, 4), torch.ones(4, 2), 2.0)
    layers, note = klora({"a": untrained, "b": untrained}, {"a": style, "b": style})
    assert all(layer is style for layer in layers.values()) and "first 0%" in note
