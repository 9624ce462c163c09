from __future__ import annotations

import numpy as np
import torch

from streamasr.activation_cpu import sigmoid


def test_sigmoid_equals_torchs() -> None:
    x = np.concatenate([np.linspace(-120, 120, 10_001), [0.0, 1e-30, -1e30, 1e30]]).astype(np.float32)
    y = np.empty_like(x)
    sigmoid(x, np.float32(1), y)
    torch.testing.assert_close(torch.from_numpy(y), torch.sigmoid(torch.from_numpy(x)), atol=1e-6, rtol=1e-6)
    sigmoid(x[:1000] / 50, np.float32(2), y[:1000])
    np.testing.assert_allclose(2 * y[:1000] - 1, np.tanh(x[:1000] / 50), atol=1e-6)
