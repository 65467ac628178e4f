"""YAML parsing in which `no` and `off` are strings, and duplicate names are errors."""

from typing import Any

import yaml

from settings.bounded_yaml import BoundedLoader

BOOLEAN = "tag:yaml.org,2002:bool"


class _Loader(BoundedLoader):
    """A loader whose booleans are true and false only, as in YAML 1.2; YAML 1.1 also has yes, no, on and off."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in resolvers if tag != BOOLEAN or first in "tTfF"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As the parent, but a duplicate name is an error: its first value would be dropped without a warning."""
        names: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in names:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is set twice", key.start_mark)
            names.add(str(key.value))
        return super().construct_mapping(node, deep=deep)


def load_yaml(text: str) -> Any:
    """Parse a YAML or JSON text. Raises yaml.YAMLError, also for one that exceeds the limits."""
    return yaml.load(text, _Loader)
