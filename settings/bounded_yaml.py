"""Parses untrusted YAML with limits on size, nesting and expanded aliases."""

from typing import Any

import yaml

MOST_CHARACTERS = 100_000
MOST_VALUES = 10_000
DEEPEST = 30
"""Nesting depth of lists and mappings."""
MOST_WHEN_EXPANDED = 1_000_000
"""Characters and values, where each alias counts as the value that it refers to."""


class BoundedLoader(yaml.SafeLoader):
    """A loader for plain values, limited in number and size. Raises yaml.YAMLError only.

    The sizes are checked before values are constructed: nested anchors may expand to billions of values.
    """

    def __init__(self, text: str) -> None:
        """Raises yaml.YAMLError for a text that is too long or contains characters that are invalid in YAML."""
        if len(text) > MOST_CHARACTERS:
            raise yaml.YAMLError(f"it has {len(text):,} characters; the limit is {MOST_CHARACTERS:,}")
        super().__init__(text)
        self._values = self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """As in PyYAML, with limits on the number and nesting of values."""
        self._values += 1
        self._depth += 1
        if self._depth > DEEPEST:
            raise yaml.YAMLError(f"its lists or mappings are nested more than {DEEPEST} levels deep")
        if self._values > MOST_VALUES:
            raise yaml.YAMLError(f"it has more than {MOST_VALUES:,} values")
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_document(self, node: yaml.Node) -> Any:
        """As in PyYAML, with a limit on the expanded size."""
        if _expanded(node, {}) > MOST_WHEN_EXPANDED:
            raise yaml.YAMLError(
                "its anchors and aliases (&, *) expand to more than a million values; write the values out"
            )
        try:
            return super().construct_document(node)
        except (ValueError, OverflowError, TypeError, KeyError) as error:  # a month of 13, a mapping as a key
            raise yaml.YAMLError(f"a value cannot be read ({error})") from None


def _expanded(node: yaml.Node, known: dict[int, int]) -> int:
    """Return the number of values and characters below the node. Raises yaml.YAMLError for a recursive one."""
    if id(node) in known:
        if known[id(node)] < 0:
            raise yaml.YAMLError("an anchor refers to a value that contains it")
        return known[id(node)]
    known[id(node)] = -1
    size = 1
    if isinstance(node, yaml.ScalarNode):
        size += len(node.value)
    elif isinstance(node, yaml.SequenceNode):
        size += sum(_expanded(each, known) for each in node.value)
    else:
        size += sum(_expanded(each, known) for pair in node.value for each in pair)
    known[id(node)] = size
    return size
