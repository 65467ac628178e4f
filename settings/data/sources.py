"""Datasets of the hub, and several data sources with their weights."""

from typing import Any

from pydantic import Field, field_validator

from settings.callers import Open, Sources
from settings.record import Settings


class SourceConfig(Settings):
    """One of several sources."""

    source: Open[str] = Field(min_length=1, description="Zip, tar, folder, URL, hf://owner/name, s3://bucket/x.tar")
    weight: Open[float | None] = Field(
        None, gt=0, le=1000, description="Weight of this source relative to the others (1 if none is given)"
    )


class SourceSection(Settings):
    """Data given by name, in addition to that of the command or the request."""

    sources: Sources[tuple[SourceConfig, ...]] = Field(
        (),
        description="Additional data: each entry has a source, such as hf://owner/name, and a weight, its share of "
        "the training steps",
    )
    dataset_name: Open[str | None] = Field(
        None, min_length=3, description="Dataset of the Hugging Face hub, such as lambdalabs/naruto-blip-captions"
    )
    dataset_config_name: Open[str | None] = Field(
        None, min_length=1, description="Configuration of the dataset; by default the only one"
    )
    dataset_split: Open[str | None] = Field(
        None,
        min_length=1,
        description="Split of the dataset, optionally with rows: train[:500]; by default train, or the only one",
    )
    dataset_revision: Open[str | None] = Field(None, min_length=1, description="Branch, tag or commit of the dataset")
    image_column: Open[str | None] = Field(
        None, min_length=1, description="Column of a dataset or table with the images or their URLs"
    )

    @field_validator("sources", mode="before")
    @classmethod
    def _a_text_is_a_source(cls, sources: Any) -> Any:
        listed = [sources] if isinstance(sources, str | dict) else sources
        if not isinstance(listed, list | tuple):
            return listed
        return tuple({"source": each} if isinstance(each, str) else each for each in listed)

    @property
    def named_sources(self) -> tuple[str, ...]:
        """All data that the settings name."""
        named = [each.source for each in self.sources]
        if self.dataset_name:
            named.append(
                "".join((
                    "hf://", self.dataset_name.removeprefix("hf://"),
                    f"@{self.dataset_revision}" if self.dataset_revision else "",
                    f"/{self.dataset_config_name}" if self.dataset_config_name else "",
                    f":{self.dataset_split}" if self.dataset_split else "",
                ))
            )  # fmt: skip
        return tuple(named)

    @property
    def source_weights(self) -> dict[str, float]:
        """The weight of each source that has one, by the source's text."""
        return {each.source: each.weight for each in self.sources if each.weight is not None}


def dataset_rules(config: SourceSection) -> None:
    """Raises ValueError for settings that have no effect without dataset_name."""
    for name in ("dataset_config_name", "dataset_split", "dataset_revision"):
        if getattr(config, name) is not None and config.dataset_name is None:
            raise ValueError(f"{name} has no effect without dataset_name; set it, or leave {name} out")
