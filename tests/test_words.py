from __future__ import annotations

import numpy as np
import torch
from numba import njit

from streamasr.words import Words, exponential, load, sigmoid, store, words


@njit
def copied(x: Words, y: Words) -> None:
    for i in range(len(x)):
        store(y, i, load(x[i]))


@njit
def functions(x: Words, y: Words) -> None:
    for i in range(x.shape[0]):
        y[0, i] = exponential(x[i])
        y[1, i] = sigmoid(x[i])


def test_bfloat16_is_rounded_as_torch_rounds_it() -> None:
    torch.manual_seed(1)
    x = torch.cat([torch.randn(1000) * 10.0 ** torch.randint(-9, 9, (1000,)), torch.tensor([0.0, -0.0, 1.00390625])])
    y = torch.empty(len(x), dtype=torch.bfloat16)
    copied(words(x), words(y))
    assert torch.equal(y, x.bfloat16())
    back = torch.empty(len(x))
    copied(words(y), words(back))
    assert torch.equal(back, y.float())


def test_functions_are_those_of_numpy() -> None:
    x = np.linspace(-80, 80, 20_001).astype(np.float32)
    y = np.empty((2, len(x)), np.float32)
    functions(x, y)
    exact = np.exp(x.astype(np.float64))
    assert np.abs(y[0] / exact - 1).max() < 5e-7
    np.testing.assert_allclose(y[1], exact / (1 + exact), rtol=1e-6)


def test_functions_stay_finite_far_out() -> None:
    x = np.array([-1e30, -200, 200, 1e30], np.float32)
    y = np.empty((2, 4), np.float32)
    functions(x, y)
    assert np.isfinite(y).all()
    np.testing.assert_allclose(y[1], [0, 0, 1, 1], atol=1e-30)
