"""The optimisers of a run as one: AdamW for everything, or Muon for the matrices of the layers and AdamW beside it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from streamasr.errors import ConfigError
from train import distributed
from train.config import OptimiserConfig
from train.precision import product_type


def is_inner_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether a weight is a matrix between hidden layers: neither a kernel, nor a head onto the tokens."""
    return parameter.dim() == 2 and min(parameter.shape) > 64 and "head" not in name


# The best odd polynomials of the fifth degree, one after another, for singular values of 0.02 to 1: within 0.1 of one.
POLYNOMIALS = ((7.711, -22.1138, 16.2487), (3.2153, -2.4112, 0.5013), (2.2183, -1.594, 0.4107))


def orthogonalise(matrix: Tensor) -> Tensor:
    """The nearest matrix with singular values of about one: (N, M) to (N, M).

    Products alone, so that it is fast; singular values below a fiftieth of the fourth root of the sum of their fourth
    powers stay small. Source: Amsel et al., "The Polar Express: Optimal Matrix Sign Methods and Their Application to
    the Muon Algorithm", 2025.
    """
    x = matrix.to(product_type(matrix.device.type))
    tall = x.shape[0] > x.shape[1]
    x = x.t() if tall else x
    square = x @ x.t()
    norm = square.float().norm() + 1e-14  # its root bounds the largest value far closer than the norm of x does
    x, square = x / norm.sqrt().to(x.dtype), square / norm.to(x.dtype)
    for number, (first, third, fifth) in enumerate(POLYNOMIALS):
        square = x @ x.t() if number else square
        x = torch.addmm(x, torch.addmm(square, square, square, beta=third, alpha=fifth), x, beta=first)
    return (x.t() if tall else x).to(matrix.dtype)


class Muon(Optimizer):
    """Momentum whose steps are orthogonalised. torch.optim has one too; here the processes, whose gradients are equal,
    each orthogonalise their share of the matrices, which is most of the work.
    """

    def __init__(
        self, parameters: list[nn.Parameter], rate: float, weight_decay: float, momentum: float = 0.95
    ) -> None:
        super().__init__(parameters, {"lr": rate, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # noqa: ARG002
        """Change the weights; all processes together."""
        for group in self.param_groups:
            kept = [p for p in group["params"] if p.grad is not None]
            changes = []
            for number, parameter in enumerate(kept):
                memory = self.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))
                memory.lerp_(parameter.grad, 1 - group["momentum"])
                mine = number % distributed.world() == distributed.rank()
                ahead = parameter.grad.lerp(memory, group["momentum"])  # Nesterov
                changes.append(orthogonalise(ahead) if mine else torch.zeros_like(parameter))
            distributed.sum_tensors(changes)
            for parameter, change in zip(kept, changes, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(change, alpha=-0.2 * group["lr"] * max(parameter.shape) ** 0.5)


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
        self.all: list[Optimizer] = [AdamW(groups, lr=config.rate, betas=(0.9, 0.98), fused=True)]
        if inner:
            self.all.append(Muon(inner, config.rate, config.weight_decay))

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
