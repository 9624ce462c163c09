from __future__ import annotations

import torch

from streamasr.recurrence import _scan, recur


def test_loop_and_scan_agree_with_their_gradients() -> None:
    keep = torch.rand(23, 2, 5, dtype=torch.float32, requires_grad=True)
    new = torch.randn(23, 2, 5, requires_grad=True)
    weights = torch.randn(23, 2, 5)
    results = []
    for function in (recur, _scan):
        keep.grad = new.grad = None
        memory = function(keep, new)
        (memory * weights).sum().backward()
        assert keep.grad is not None
        assert new.grad is not None
        results.append((memory.detach(), keep.grad.clone(), new.grad.clone()))
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours, reference, atol=1e-5, rtol=1e-5)


def test_definition() -> None:
    keep, new = torch.tensor([[[0.9]], [[0.5]], [[0.25]]]), torch.tensor([[[1.0]], [[2.0]], [[3.0]]])
    assert recur(keep, new).flatten().tolist() == [1.0, 2.5, 3.625]


def test_no_frames() -> None:
    assert recur(torch.zeros(0, 2, 3), torch.zeros(0, 2, 3)).shape == (0, 2, 3)
