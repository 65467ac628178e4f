"""The settings on the report page: changed ones first, in groups."""

import json
from collections.abc import Mapping
from typing import Any

from settings.training import TrainingConfig


def shown_settings(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return name, value as text, whether it differs from the default, and description of every setting."""
    rows = []
    for name, value in config.items():
        field = TrainingConfig.model_fields.get(name)
        default = json.loads(json.dumps(field.get_default(call_default_factory=True), default=str)) if field else None
        rows.append({
            "name": name,
            "value": _text(value),
            "changed": value != default and not (isinstance(default, list) and list(value or []) == default),
            "description": field.description if field else "",
        })  # fmt: skip
    return rows


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return "\n".join(value) or "–"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)
