"""Tests that differences between families are in families/ only: no other package checks for a family or names one."""

import ast
from collections.abc import Iterator
from pathlib import Path

from families.registry import FAMILIES
from tests.conftest import PROJECT

PACKAGES = ("artifact", "sampler", "evaluation", "trainer", "job", "service", "settings", "preprocess", "fetching")
NAMES = {family.name for family in FAMILIES.values()} | {"sd1", "sd2", "sd35", "flux", "cascade"}
CLASSES = {family.__name__ for family in FAMILIES.values()} | {"SDXLRefiner"}
MODULES = {family.__module__ for family in FAMILIES.values()} | {"families.parts.sdxl_refiner"}
PARTS = {"unet", "transformer", "tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2"}


def _faults(code: str) -> Iterator[str]:
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _names_a_family(node.value):
            yield f"{node.lineno}: the name {node.value!r}"
        if isinstance(node, ast.ImportFrom) and node.module in MODULES:
            yield f"{node.lineno}: imports {node.module}"
        if isinstance(node, ast.Name) and node.id in CLASSES:
            yield f"{node.lineno}: the class {node.id}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield from _asks(node)


def _names_a_family(text: str) -> bool:
    pipeline = text.endswith("Pipeline") and text.startswith("Stable")
    return text in NAMES or text in FAMILIES or pipeline or text.startswith("StableDiffusion3")


def _asks(call: ast.Call) -> Iterator[str]:
    """Yield checks such as isinstance(family, …), isinstance(family.denoiser, …) and hasattr(pipeline, "unet")."""
    function = call.func.id if isinstance(call.func, ast.Name) else ""
    words = [each.id for argument in call.args[:1] for each in ast.walk(argument) if isinstance(each, ast.Name)]
    words += [each.attr for argument in call.args[:1] for each in ast.walk(argument) if isinstance(each, ast.Attribute)]
    if function == "isinstance" and {"family", "denoiser"} & {word.lstrip("_") for word in words}:
        yield f"{call.lineno}: isinstance of a family or its denoiser"
    asked = call.args[1].value if len(call.args) > 1 and isinstance(call.args[1], ast.Constant) else None
    if function in ("hasattr", "getattr") and asked in PARTS:
        yield f"{call.lineno}: {function}(…, {asked!r})"


def test_no_family_is_named_outside() -> None:
    files = [path for package in PACKAGES for path in sorted((PROJECT / package).rglob("*.py"))]
    assert len(files) > 150
    found = [f"{_short(path)}:{fault}" for path in files for fault in _faults(path.read_text(encoding="utf-8"))]
    assert found == []


def _short(path: Path) -> str:
    return str(path.relative_to(PROJECT))


def test_each_way_to_ask_is_found() -> None:
    for code in (
        'family.name == "sdxl"',
        "from families.sd3 import SD3",
        "isinstance(self._family, Anything)",
        "isinstance(family.denoiser, UNet2DConditionModel)",
        'hasattr(pipeline, "unet")',
        'pipeline == "StableDiffusion3Pipeline"',
        '"StableDiffusion3" not in pipeline',
    ):
        assert len(list(_faults(code))) == 1, code
    assert not list(_faults("if clip_reader(family) is None: pass"))
