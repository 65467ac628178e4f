"""The data sources that callers may name: only public ones."""

from collections.abc import Iterator, Sequence

from preprocess.sources.references import is_hub
from service.policy.rules import MAY_SET
from settings.data.sources import SourceConfig


def refused_sources(name: str, sources: Sequence[SourceConfig]) -> Iterator[str]:
    """A line for each source that is neither a dataset of the hub nor a https address: paths and stores of the server,
    which the operator's own credentials would open."""
    for each in sources:
        if not (is_hub(each.source) or each.source.startswith("https://")):
            yield (
                f"{name}: {each.source[:100]!r} is neither a https address nor a dataset of the hub (hf://owner/name); "
                f"{MAY_SET}={name} in the server's environment would allow others"
            )
