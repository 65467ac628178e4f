"""YAML as people mean it: `no` and `off` are words, and a name stands once."""

from typing import Any

import yaml

from settings.bounded_yaml import BoundedLoader

BOOLEAN = "tag:yaml.org,2002:bool"


class _Loader(BoundedLoader):
    """Booleans are true and false alone, as in YAML 1.2: 1.1 also takes yes, no, on and off."""

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
    """The value that a YAML or JSON text holds. Raises yaml.YAMLError, also for one of no sensible size."""
    return yaml.load(text, _Loader)
