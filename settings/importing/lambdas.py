"""Reads Python expressions of configurations as conditions. They are parsed, and never evaluated."""

import ast
from collections.abc import Iterator
from typing import Any

from settings.filters import LONGEST_FILTER, parse_filter
from settings.record import ConfigError

OPERATORS = {ast.Gt: ">", ast.GtE: ">=", ast.Lt: "<", ast.LtE: "<=", ast.Eq: "==", ast.NotEq: "!="}
MIRRORED = {">": "<", ">=": "<=", "<": ">", "<=": ">=", "==": "==", "!=": "!="}


def filters_from(field: str, text: str, shown: str) -> list[str]:
    """Return the filters on a metadata field that `lambda s: s > 4.5` means: comparisons of its argument with numbers
    or texts, also chained (`0 < s < 1`) and joined by `and`.

    `shown`: its name in errors. Raises ConfigError for anything else.
    """
    function = _parsed(text, shown)
    body, argument = function.body, _only_argument(function, shown, text)
    parts = body.values if isinstance(body, ast.BoolOp) and isinstance(body.op, ast.And) else [body]
    found = [f"{field} {condition}" for part in parts for condition in _conditions(part, argument, shown, text)]
    try:
        return [str(parse_filter(each)) for each in found]
    except ValueError as error:
        raise ConfigError(f"{shown}: {error}") from None


def key_from(text: str, shown: str) -> str | None:
    """Return the metadata key that `lambda s: s["caption"]` reads; None for `identity` and `lambda s: s`.

    Raises ConfigError for anything else.
    """
    if text.strip() == "identity":
        return None
    function = _parsed(text, shown)
    body, argument = function.body, _only_argument(function, shown, text)
    if isinstance(body, ast.Name) and body.id == argument:
        return None
    if isinstance(body, ast.Subscript) and _is_argument(body.value, argument) and isinstance(body.slice, ast.Constant):
        return str(body.slice.value)
    raise ConfigError(
        f"{shown}: {text!r} is program code, which is never run; read a single key: lambda s: s['caption']"
    )


def _parsed(text: str, shown: str) -> ast.Lambda:
    if len(text) > LONGEST_FILTER:
        raise ConfigError(f"{shown}: {text[:40]!r}… has more than {LONGEST_FILTER} characters")
    try:
        body = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        body = None
    if not isinstance(body, ast.Lambda):
        raise ConfigError(f"{shown}: {text!r} is not a condition such as lambda s: s > 4.5")
    return body


def _only_argument(function: ast.Lambda, shown: str, text: str) -> str:
    arguments = function.args
    if len(arguments.args) != 1 or arguments.vararg or arguments.kwonlyargs or arguments.kwarg or arguments.defaults:
        raise ConfigError(f"{shown}: {text!r} has several arguments; a filter compares one value")
    return arguments.args[0].arg


def _is_argument(node: ast.expr, argument: str) -> bool:
    """Whether the node is the argument itself, or the parsed JSON of the argument."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "json.loads" and len(node.args) == 1:
        node = node.args[0]
    return isinstance(node, ast.Name) and node.id == argument


def _conditions(node: ast.expr, argument: str, shown: str, text: str) -> Iterator[str]:
    """Yield the comparisons of a chain. Each compares the argument with a constant."""
    if not isinstance(node, ast.Compare):
        raise _refused(shown, text)
    sides = [node.left, *node.comparators]
    for left, operator, right in zip(sides, node.ops, sides[1:], strict=False):
        sign = OPERATORS.get(type(operator))
        if sign is None:
            raise _refused(shown, text)
        if isinstance(left, ast.Name) and left.id == argument:
            yield f"{sign} {_constant(right, shown, text)}"
        elif isinstance(right, ast.Name) and right.id == argument:
            yield f"{MIRRORED[sign]} {_constant(left, shown, text)}"
        else:
            raise _refused(shown, text)


def _constant(node: ast.expr, shown: str, text: str) -> Any:
    """Return a number or text as written in the file."""
    try:
        value = ast.literal_eval(node)  # constants alone: no name is looked up, nothing is called
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise _refused(shown, text) from None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise _refused(shown, text)
    return value


def _refused(shown: str, text: str) -> ConfigError:
    return ConfigError(
        f"{shown}: {text!r} is not a simple comparison, and code is never run; write lambda s: s > 4.5, with one of "
        f"{' '.join(MIRRORED)}, or use filters (docs/dataset.md)"
    )
