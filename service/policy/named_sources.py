"""The data sources that callers may name: only public ones."""

from collections.abc import Iterator, Sequence

from preprocess.sources.references import is_hub
from service.policy.rules import MAY_SET
from settings.data.sources import SourceConfig


def refused_sources(name: str, sources: Sequence[SourceConfig]) -> Iterator[str]:
    """Yield a line for each source that is neither a dataset of the hub nor an https URL. Paths of the server, and
    stores, would be read with the operator's permissions."""
    for each in sources:
        if not (is_hub(each.source) or each.source.startswith("https://")):
            yield (
                f"{name}: {each.source[:100]!r} is neither an https URL nor a dataset of the hub (hf://owner/name); "
                f"the operator can allow others with {MAY_SET}={name} in the server's environment"
            )
