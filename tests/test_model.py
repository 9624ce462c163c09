from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from streamasr.config import FeatureConfig, ModelConfig
from streamasr.errors import ConfigError
from streamasr.model import AsrModel
from tests.conftest import TINY

CONFIGS = {
    "gated": TINY,
    "lstm": ModelConfig(rnn="lstm", channels=4, size=24, layers=2, lookahead=3),
}
MODELS = {name: AsrModel(FeatureConfig(), config, 29).eval() for name, config in CONFIGS.items()}


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=15)
@given(data=st.data())
def test_any_chunking_gives_the_logits_of_the_whole(name: str, data: st.DataObject) -> None:
    model = MODELS[name]
    count = data.draw(st.integers(1, 20_000))
    cuts = data.draw(st.lists(st.integers(0, count), max_size=10))
    samples = torch.randn(1, count, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 9)))) * 0.1
    with torch.inference_mode():
        expected, lengths = model(samples, torch.tensor([count]))
        state, parts = model.init_state(1), []
        for part in torch.tensor_split(samples, sorted(cuts), dim=-1):
            log_probs, state = model.step(part, state)
            parts.append(log_probs)
        parts.append(model.flush(state))
        streamed = torch.cat(parts, 1)
    assert streamed.shape[1] == int(lengths[0])
    torch.testing.assert_close(streamed, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_batch_equals_alone(name: str) -> None:
    model = MODELS[name]
    samples = torch.randn(3, 9000) * 0.1
    lengths = torch.tensor([9000, 5003, 160])
    for row, length in enumerate(lengths.tolist()):
        samples[row, length:] = 0
    with torch.inference_mode():
        log_probs, frames = model(samples, lengths)
        for row, length in enumerate(lengths.tolist()):
            alone, _ = model(samples[row : row + 1, :length], torch.tensor([length]))
            torch.testing.assert_close(log_probs[row : row + 1, : int(frames[row])], alone, atol=1e-5, rtol=1e-5)


def measured_lookahead(model: AsrModel) -> int:
    """Feature frames beyond its own first one that an output frame depends on."""
    lengths = torch.tensor([240])
    furthest = -1
    for _ in range(8):  # rectifiers hide some changes
        energies = torch.randn(1, 80, 240)
        with torch.inference_mode():
            before = model.encode(energies, lengths)[0][:, 20]
            for ahead in range(100, furthest, -1):
                changed = energies.clone()
                changed[..., 20 * model.network.stride + ahead] += torch.randn(80) * 9
                if not torch.equal(model.encode(changed, lengths)[0][:, 20], before):
                    furthest = ahead
                    break
    return furthest


@pytest.mark.parametrize("name", MODELS)
def test_lookahead_is_what_the_network_needs(name: str) -> None:
    model = MODELS[name]
    assert measured_lookahead(model) * 10 == model.lookahead_ms
    assert model.frame_ms == 40


def test_bidirectional_variant_sees_all_and_cannot_stream() -> None:
    config = ModelConfig(rnn="gated", channels=4, size=32, layers=2, context=5, lookahead=0, bidirectional=True)
    model = AsrModel(FeatureConfig(), config, 29).eval()
    samples = torch.randn(2, 8000) * 0.1
    log_probs, frames = model(samples, torch.tensor([8000, 8000]))
    assert log_probs.shape == (2, 13, 29)
    assert frames.tolist() == [13, 13]
    with pytest.raises(TypeError, match="bidirectional"):
        model.init_state(1)


def test_intermediate_head_is_for_training_only() -> None:
    config = ModelConfig(rnn="gated", channels=4, size=32, layers=3, lookahead=2, intermediate=2)
    model = AsrModel(FeatureConfig(), config, 29)
    log_probs, _, tapped = model.encode(torch.randn(2, 80, 40), torch.tensor([40, 31]))
    assert tapped is not None
    assert tapped.shape == log_probs.shape
    assert model.tap_head is not None
    assert model.parameter_count < sum(p.numel() for p in model.parameters())


def test_unknown_kind_of_layer() -> None:
    with pytest.raises(ConfigError, match="gated"):
        AsrModel(FeatureConfig(), ModelConfig(rnn="transformer"), 29)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_equals_cpu() -> None:
    model = AsrModel(FeatureConfig(), TINY, 29).eval()
    samples = torch.randn(2, 9000) * 0.1
    with torch.inference_mode():
        expected, _ = model(samples, torch.tensor([9000, 9000]))
        actual, _ = model.to("cuda")(samples.cuda(), torch.tensor([9000, 9000]).cuda())
    torch.testing.assert_close(actual.cpu(), expected, atol=1e-3, rtol=1e-3)
