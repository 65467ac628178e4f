"""The datasets of kohya's TOML files: folders (subsets), in groups with one resolution and batch size."""

from collections.abc import Mapping
from typing import Any

from settings.record import ConfigError

REPEATS = "num_repeats"


def is_dataset_file(given: Mapping[str, Any]) -> bool:
    """Whether a file has a list of datasets with folders."""
    datasets = given.get("datasets")
    return isinstance(datasets, list) and any(isinstance(each, dict) and "subsets" in each for each in datasets)


def fields_of_datasets(datasets: Any, general: Any) -> dict[str, Any]:
    """Return the fields of all parts as arguments. `general`: the fields for all parts.

    Raises ConfigError for fields that differ between parts, which have one value here.
    """
    fields = dict(_table("general", general))
    folders: list[str] = []
    repeats = set[str]()
    usual = fields.pop(REPEATS, 1)
    for dataset in _tables("datasets", datasets):
        of_dataset = dataset.get(REPEATS, usual)
        for subset in _tables("subsets", dataset.get("subsets", [])):
            folder, times = str(subset.get("image_dir", "")), str(subset.get(REPEATS, of_dataset))
            if subset.get("is_reg"):
                _merge(fields, {"reg_data_dir": folder})
            elif folder:
                folders.append(folder)
                repeats.add(times)
            own = ("image_dir", REPEATS, "is_reg")
            _merge(fields, {name: value for name, value in subset.items() if name not in own})
        _merge(fields, {name: value for name, value in dataset.items() if name not in ("subsets", REPEATS)})
    if len(repeats) > 1:
        raise ConfigError(
            "num_repeats: differs between the folders; rename them to 10_name and so on, and give their parent folder"
        )
    return {**fields, **({"image_dir": folders, REPEATS: repeats.pop()} if folders else {})}


def _merge(fields: dict[str, Any], more: Mapping[str, Any]) -> None:
    for name, value in more.items():
        if fields.setdefault(name, value) != value:
            raise ConfigError(
                f"{name}: is {fields[name]} and {value} in two parts of the file; only one value is supported"
            )


def _tables(name: str, value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise ConfigError(f"{name}: must be a list of tables, [[{name}]]")
    return [_table(name, each) for each in value]


def _table(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{name}: must contain tables of fields, such as image_dir = 'dogs'")
    return value
