"""A small untrained model that babbles, for tests that need the real path but no sense in the words."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import settings

from streamasr import bundle
from streamasr.config import FeatureConfig, ModelConfig
from streamasr.model import AsrModel
from streamasr.text import Vocab

torch.set_num_threads(1)
settings.register_profile("shared machine", deadline=None)  # a timing is never a test
settings.load_profile("shared machine")

TINY = ModelConfig(rnn="gated", channels=4, size=32, layers=2, context=5, context_ahead=1, lookahead=2)


def make_tiny_bundle(path: Path, config: ModelConfig = TINY, seed: int = 1) -> Path:
    """A bundle of random weights whose outputs change with the sound."""
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    model = AsrModel(FeatureConfig(), config, len(Vocab()))
    model.features.mean.fill_(-6.0)
    model.features.deviation.fill_(3.0)
    with torch.no_grad():
        head = model.network.layers[-1].linear
        head.weight.mul_(8)
        head.bias[0] += 1.0
        head.bias[1] += 1.0
    torch.random.set_rng_state(state)
    bundle.save(path, model, FeatureConfig(), config, Vocab(), {}, "# tiny\n")
    return path


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a tiny bundle."""
    return make_tiny_bundle(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_bundle(tiny_path: Path) -> bundle.Bundle:
    """A tiny bundle, loaded."""
    return bundle.load(str(tiny_path))
