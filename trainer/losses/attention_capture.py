"""Sees how much each place of the picture looks at given prompt tokens: the cross-attention of a UNet, with gradients.

Attention kernels do not give their probabilities away, so they are computed again from queries and keys. Only the
trained pass is watched: passes without gradients cost nothing.
"""

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

CROSS_ATTENTION = "attn2"


class AttentionCapture:
    """Hooks on the cross-attention layers of `denoiser`, for as long as this object lives.

    A new forward pass of the denoiser forgets the one before.
    """

    def __init__(self, denoiser: nn.Module) -> None:
        """Raises ValueError when there is no cross-attention to watch."""
        layers: list[Any] = [
            module for name, module in denoiser.named_modules() if name.rpartition(".")[2] == CROSS_ATTENTION
        ]
        if not layers:
            raise ValueError(f"{type(denoiser).__name__} has no cross-attention layers ({CROSS_ATTENTION})")
        self._heads = [layer.heads for layer in layers]
        self._queries: dict[int, Tensor] = {}
        self._keys: dict[int, Tensor] = {}
        hooks = [denoiser.register_forward_pre_hook(_forgetting(self._queries, self._keys))]
        for index, layer in enumerate(layers):
            hooks.append(layer.to_q.register_forward_hook(_keeping(self._queries, index)))
            hooks.append(layer.to_k.register_forward_hook(_keeping(self._keys, index)))
        weakref.finalize(self, _remove, hooks)

    def maps(self, positions: Sequence[Sequence[int]]) -> list[Tensor]:
        """For each layer (B, N): probability that a place looks at its image's token `positions`, mean over heads.

        An image without positions has zeros. Raises RuntimeError when no pass with gradients was seen.
        """
        if len(self._queries) != len(self._heads):
            raise RuntimeError("no forward pass with gradients was seen")
        return [
            _attention_to(self._queries[index], self._keys[index], heads, positions)
            for index, heads in enumerate(self._heads)
        ]


def _forgetting(*stores: dict[int, Tensor]) -> Any:
    def forget(_module: nn.Module, _inputs: object) -> None:
        for store in stores:
            store.clear()

    return forget


def _remove(hooks: Sequence[Any]) -> None:
    for hook in hooks:
        hook.remove()


def _keeping(store: dict[int, Tensor], index: int) -> Any:
    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        if torch.is_grad_enabled():
            store[index] = output

    return keep


def _attention_to(queries: Tensor, keys: Tensor, heads: int, positions: Sequence[Sequence[int]]) -> Tensor:
    """softmax(QKᵀ / √d) summed over `positions`. `queries`: (B, N, heads·d), `keys`: (B, L, heads·d)."""
    query, key = (each.float().unflatten(-1, (heads, -1)).transpose(1, 2) for each in (queries, keys))
    probabilities = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(dim=-1)
    wanted = torch.zeros(len(positions), keys.shape[1])
    for row, places in enumerate(positions):
        wanted[row, list(places)] = 1
    return torch.einsum("bhnl,bl->bn", probabilities, wanted.to(keys.device, non_blocking=True)) / heads
