"""Muon (Jordan et al. 2024): orthogonalises the momentum of matrices. Other parameters are trained by AdamW."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from trainer.optimizers.settings import BETAS, OptimizerSettings, ParameterGroup


class MuonAndAdamW(torch.optim.Optimizer):
    """torch's Muon for two-dimensional parameters, its AdamW for all others, as one optimizer.

    Updates of matrices are scaled to the root mean square of AdamW's, 0.2 of the rate (Liu et al. 2025, arXiv
    2502.16982, §2.2), so that both use the same rate.
    """

    def __init__(self, groups: Sequence[ParameterGroup], lr: float) -> None:
        super().__init__([group for flat in (True, False) for group in _only(groups, flat)], {"lr": lr})
        own = self.param_groups
        self._matrices = len(_only(groups, True))
        self._parts: list[torch.optim.Optimizer] = []
        if own[: self._matrices]:
            self._parts.append(torch.optim.Muon(own[: self._matrices], lr=lr, adjust_lr_fn="match_rms_adamw"))
        if own[self._matrices :]:
            self._parts.append(torch.optim.AdamW(own[self._matrices :], lr=lr, betas=BETAS))
        self.param_groups = [group for part in self._parts for group in part.param_groups]
        self._share()

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """`closure` is not supported."""
        assert closure is None
        for part in self._parts:
            part.step()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load the state of both."""
        super().load_state_dict(dict(state_dict))
        self._share()

    def _share(self) -> None:
        """Let both optimizers use this optimizer's groups and states."""
        counts = [len(part.param_groups) for part in self._parts]
        for number, part in enumerate(self._parts):
            first = sum(counts[:number])
            part.param_groups = self.param_groups[first : first + counts[number]]
            part.state = self.state


def muon(groups: Sequence[ParameterGroup], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Parameters are not flattened, because Muon needs matrices."""
    return MuonAndAdamW(groups, settings.learning_rate)


def _only(groups: Sequence[ParameterGroup], matrices: bool) -> list[ParameterGroup]:
    """The groups with only their matrices, or only their other parameters; empty groups are omitted."""
    chosen = [{**group, "params": [p for p in group["params"] if (p.ndim == 2) == matrices]} for group in groups]
    return [group for group in chosen if group["params"]]
