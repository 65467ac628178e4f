"""Captures the cross-attention of a UNet to given prompt tokens, with gradients.

Attention kernels do not return their probabilities, so they are recomputed from queries and keys. Only passes with
gradients are captured.
"""

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

CROSS_ATTENTION = "attn2"


class AttentionCapture:
    """Hooks on the cross-attention layers of `denoiser` that exist as long as this object.

    A new forward pass of the denoiser overwrites the previous one.
    """

    def __init__(self, denoiser: nn.Module) -> None:
        """Raises ValueError when the denoiser has no cross-attention layers."""
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
        """Return, for each layer, the attention (B, N) of each latent position to its image's token `positions`, as the
        mean over heads.

        The rows of images without positions are zero. Raises RuntimeError when no pass with gradients was captured.
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
