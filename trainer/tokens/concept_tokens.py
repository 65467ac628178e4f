"""Placeholder tokens of the concepts in every text encoder, trained by peft's trainable tokens."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from diffusers.training_utils import cast_training_params
from peft import TrainableTokensConfig, inject_adapter_in_model
from peft.tuners.trainable_tokens import TrainableTokensLayer
from torch import Tensor, nn

from families.family import ModelFamily
from families.parts.placeholder_tokens import PlaceholderTokens, first_free_placeholder, placeholder_names
from trainer.adapters.kind import ADAPTER
from trainer.tokens.initialization import TokenStart


@dataclass
class ConceptTokens:
    """The trained rows of the placeholder tokens.

    `parameters`: one (n, d) fp32 tensor per text encoder, n over all concepts. `triggers` maps trigger words to the
    names of their placeholder tokens; a plain word has none.
    """

    family: ModelFamily
    triggers: dict[str, list[str]]
    placeholders: PlaceholderTokens
    parameters: list[nn.Parameter]

    def remove(self) -> None:
        """Remove the tokens from the text encoders."""
        self.placeholders.remove()
        if self.parameters:
            for encoder in self.family.text_encoders:
                del encoder.peft_config

    def rows(self) -> list[Tensor]:
        """Return the current rows as fp32 tensors on the CPU: one (n, d) per text encoder."""
        return [parameter.detach().float().cpu().clone() for parameter in self.parameters]


def plain_words(family: ModelFamily, triggers: Sequence[str]) -> ConceptTokens:
    """Return trigger words without new tokens."""
    return ConceptTokens(family, {trigger: [] for trigger in triggers}, PlaceholderTokens(family, [], []), [])


def add_tokens(
    family: ModelFamily, starts: Mapping[str, TokenStart], counts: Mapping[str, int], generator: torch.Generator
) -> ConceptTokens:
    """Add tokens for each trigger word to every text encoder. `starts`, `counts`: initial values and the number of
    tokens by trigger word."""
    rows = [
        torch.cat([start.rows(index, encoder.get_input_embeddings().weight, counts[trigger], generator)
                   for trigger, start in starts.items()])
        for index, encoder in enumerate(family.text_encoders)
    ]  # fmt: skip
    ends = list(accumulate(counts[trigger] for trigger in starts))
    first = first_free_placeholder(family)
    names = {
        trigger: placeholder_names(counts[trigger], first + end - counts[trigger])
        for trigger, end in zip(starts, ends, strict=True)
    }
    placeholders = PlaceholderTokens(family, [name for each in names.values() for name in each], rows)
    parameters = []
    for encoder, ids, row in zip(family.text_encoders, placeholders.ids, rows, strict=True):
        config = TrainableTokensConfig(token_indices=ids, target_modules=["token_embedding"])
        inject_adapter_in_model(config, encoder, adapter_name=ADAPTER)
        cast_training_params([encoder], torch.float32)
        for layer in encoder.modules():
            if isinstance(layer, TrainableTokensLayer):
                layer.get_merged_weights = _merging(layer, torch.tensor(ids))
        parameter = next(value for value in encoder.parameters() if value.requires_grad)
        with torch.no_grad():  # the fp32 rows, not their values after rounding to the table's precision
            parameter.copy_(row)
        parameters.append(parameter)
    return ConceptTokens(family, names, placeholders, parameters)


def _merging(layer: TrainableTokensLayer, ids: Tensor) -> Callable[[Sequence[str]], Tensor]:
    """Replaces peft's method, which creates a tensor of token ids in every pass and waits for its transfer."""

    def merged(active_adapters: Sequence[str]) -> Tensor:
        nonlocal ids
        table = layer.base_layer.weight
        ids = ids.to(table.device)
        return table.index_copy(0, ids, layer.trainable_tokens_delta[ADAPTER].to(table))

    return merged
