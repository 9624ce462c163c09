from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from streamasr.errors import ConfigError
from train.config import OptimiserConfig
from train.optimiser import Muon, Optimisers, orthogonalise


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(80, 96), nn.ReLU(), nn.Linear(96, 80), nn.ReLU(), nn.Linear(80, 5))


def losses(model: nn.Module, optimiser: Optimisers, steps: int) -> list[float]:
    generator = torch.Generator().manual_seed(2)
    x, y = torch.randn(64, 80, generator=generator), torch.randint(0, 5, (64,), generator=generator)
    found = []
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        found.append(loss.item())
    return found


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_it_learns_and_goes_on_from_its_state(kind: str) -> None:
    model = network()
    optimiser = Optimisers(model, OptimiserConfig(kind=kind, rate=3e-3))
    assert len(optimiser.all) == (2 if kind == "muon" else 1)
    first = losses(model, optimiser, 20)
    assert first[-1] < 0.85 * first[0]
    weights, state = {k: v.clone() for k, v in model.state_dict().items()}, optimiser.state_dict()
    other = network()
    other.load_state_dict(weights)
    again = Optimisers(other, OptimiserConfig(kind=kind, rate=3e-3))
    again.load_state_dict(copy.deepcopy(state))
    torch.testing.assert_close(losses(model, optimiser, 3), losses(other, again, 3), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(70, 90), (192, 65), (128, 128)])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_all_directions_become_equally_long(shape: tuple[int, int], scale: float) -> None:
    torch.manual_seed(3)
    values = torch.logspace(-1.0, 0.0, min(shape))
    left, right = (torch.linalg.qr(torch.randn(size, min(shape)))[0] for size in shape)
    found = orthogonalise(scale * left @ torch.diag(values) @ right.t())
    assert found.shape == shape
    torch.testing.assert_close(torch.linalg.svdvals(found), torch.ones(min(shape)), atol=0.2, rtol=0)
    torch.testing.assert_close(found, left @ right.t(), atol=0.1, rtol=0)


def test_nothing_becomes_nothing() -> None:
    assert not orthogonalise(torch.zeros(70, 90)).any()


@pytest.mark.parametrize("shape", [(70, 90), (192, 65)])
def test_muon_is_torch_s_but_for_the_polynomials(shape: tuple[int, int]) -> None:
    torch.manual_seed(3)
    start = torch.randn(shape)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    one = Muon([ours], 0.02, 0.1)
    other = torch.optim.Muon(
        [theirs],
        lr=0.02,
        weight_decay=0.1,
        adjust_lr_fn="match_rms_adamw",
        ns_coefficients=(1.875, -1.25, 0.375),
        ns_steps=14,
    )  # the polynomial that ends at one, made often enough
    for _ in range(3):
        gradient = torch.randn(shape)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        one.step()
        other.step()
    torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=0)


def test_every_weight_has_one_optimiser() -> None:
    model = network()
    groups = [group for one in Optimisers(model, OptimiserConfig(kind="muon")).all for group in one.param_groups]
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="adamw or muon"):
        Optimisers(network(), OptimiserConfig(kind="sgd"))
    adamw, muon = (Optimisers(network(), OptimiserConfig(kind=kind)) for kind in ("adamw", "muon"))
    with pytest.raises(ConfigError, match="another optimiser"):
        muon.load_state_dict(adamw.state_dict())
