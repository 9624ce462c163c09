"""The optimisers of a run as one: AdamW for everything, or Muon for the matrices of the layers and AdamW beside it."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from streamasr.errors import ConfigError
from train.config import OptimiserConfig


def is_inner_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether a weight is a matrix between hidden layers: neither a kernel, nor a head onto the tokens."""
    return parameter.dim() == 2 and min(parameter.shape) > 64 and "tap_head" not in name


class Optimisers:
    """Step, rate and state of all optimisers of a model.

    Sources: Loshchilov, Hutter, "Decoupled Weight Decay Regularization", 2019 (AdamW); Jordan et al., "Muon: An
    optimizer for hidden layers in neural networks", 2024; Liu et al., "Muon is Scalable for LLM Training", 2025 (the
    scale of its steps, so that one rate serves both).

    Raises:
        ConfigError: a kind that there is not.
    """

    def __init__(self, model: nn.Module, config: OptimiserConfig) -> None:
        if config.kind not in ("adamw", "muon"):
            raise ConfigError(f"[optimiser] kind is {config.kind!r}", "adamw or muon", "Correct it.")
        named = list(model.named_parameters())
        inner = [p for name, p in named if config.kind == "muon" and is_inner_matrix(name, p)]
        chosen = {id(p) for p in inner}
        rest = [p for _, p in named if id(p) not in chosen]
        groups = [
            {"params": [p for p in rest if p.dim() > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in rest if p.dim() <= 1], "weight_decay": 0.0},
        ]
        self.all: list[Optimizer] = [AdamW(groups, lr=config.rate, betas=(0.9, 0.98))]
        if inner:
            muon = Muon(inner, lr=config.rate, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw")
            self.all.append(muon)

    def set_rate(self, rate: float) -> None:
        """The learning rate of the next steps."""
        for optimiser in self.all:
            for group in optimiser.param_groups:
                group["lr"] = rate

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for optimiser in self.all:
            optimiser.zero_grad(set_to_none=True)

    def step(self) -> None:
        """Change the weights."""
        for optimiser in self.all:
            optimiser.step()

    def state_dict(self) -> list[dict[str, Any]]:
        """What `load_state_dict` takes."""
        return [optimiser.state_dict() for optimiser in self.all]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Go on from a saved state.

        Raises:
            ConfigError: it is of another kind of optimiser.
        """
        if len(states) != len(self.all):
            raise ConfigError("the checkpoint is of another optimiser", "", "Give the run another name (run.name).")
        for optimiser, state in zip(self.all, states, strict=True):
            optimiser.load_state_dict(state)
