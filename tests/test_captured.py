from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from streamasr.bundle import Bundle
from streamasr.captured import MOST, SEEN, Captured, cuda_graph
from streamasr.config import FeatureConfig
from streamasr.model import AsrModel
from streamasr.stack import Stack
from tests.conftest import TINY
from tests.contract import check_layer, stream, tensors


def repeated(work: Callable[[], None]) -> Callable[[], None]:
    """A recorder for any device: the work is done again, on the same memory."""
    work()
    return work


def network() -> Stack:
    torch.manual_seed(0)
    return AsrModel(FeatureConfig(), TINY, 29).eval().requires_grad_(False).network


@settings(max_examples=10)
@given(data=st.data())
def test_a_recorded_network_keeps_the_contract(data: st.DataObject) -> None:
    frames = data.draw(st.integers(8, 120))
    cuts = data.draw(st.lists(st.integers(0, frames), max_size=4)) + list(range(0, frames, 8))
    x = torch.randn(2, 1, 80, frames, generator=torch.Generator().manual_seed(1))
    check_layer(Captured(network(), repeated, torch.float32), x, cuts, 1e-4)


@torch.inference_mode()
def test_states_stay_as_they_are_while_others_are_stepped() -> None:
    layer, count = Captured(network(), repeated, torch.float32), 0
    state, states, copies = layer.init_state(2), [], []
    for _ in range(SEEN + 12):
        _, state = layer.step(torch.randn(2, 1, 80, 8), state)
        states.append(state)
        copies.append([leaf.clone() for leaf in tensors(state)])
        count = len(layer._recordings)
    assert count == 1
    for state, copy in zip(states, copies, strict=True):
        assert all(torch.equal(leaf, own) for leaf, own in zip(tensors(state), copy, strict=True))


@torch.inference_mode()
def test_recordings_are_not_kept_without_end() -> None:
    layer = Captured(network(), repeated, torch.float32)
    for batch in range(1, MOST + 5):
        for _ in range(SEEN):
            layer.step(torch.randn(batch, 1, 80, 8), layer.init_state(batch))
    assert len(layer._recordings) == MOST


@torch.inference_mode()
def test_half_precision_goes_in_and_comes_out_as_float32() -> None:
    x = torch.randn(2, 1, 80, 64)
    expected = stream(network(), x, range(0, 64, 8))
    layer = Captured(network(), repeated, torch.float16)
    found = stream(layer, x, range(0, 64, 8))
    assert found.dtype == torch.float32
    assert all(leaf.dtype == torch.float16 for leaf in tensors(layer.init_state(1)))
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0.02)


@torch.inference_mode()
def test_a_captured_model_hears_what_the_model_hears(tiny_bundle: Bundle) -> None:
    model = AsrModel(tiny_bundle.feature_config, tiny_bundle.model_config, len(tiny_bundle.vocab))
    model.load_state_dict(tiny_bundle.model.state_dict())
    model.eval().requires_grad_(False).capture(repeated, torch.float16)
    samples, lengths = torch.randn(1, 24_000) * 0.1, torch.tensor([24_000])
    expected, _ = tiny_bundle.model(samples, lengths)
    found, _ = model(samples, lengths)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0.05)
    state, parts = model.init_state(1), []
    for part in samples.split(1280, 1):
        y, state = model.step(part, state)
        parts.append(y)
    streamed = torch.cat([*parts, model.flush(state)], 1)
    assert streamed.dtype == torch.float32
    torch.testing.assert_close(streamed, expected, atol=0.05, rtol=0.05)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@torch.inference_mode()
def test_a_cuda_graph_gives_what_the_processor_gives() -> None:
    x = torch.randn(4, 1, 80, 160)
    expected = stream(network(), x, range(0, 160, 8))
    found = stream(Captured(network().cuda(), cuda_graph), x.cuda(), range(0, 160, 8))
    torch.testing.assert_close(found.cpu(), expected, atol=0.05, rtol=0.05)
