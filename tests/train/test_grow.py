from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from streamasr.errors import ConfigError
from streamasr.model import AsrModel
from streamasr.text import Vocab
from tests.train.corpora import tiny
from train import checkpoint
from train.grow import block_places, both_ways, grow


@pytest.fixture
def source(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    config = tiny(tmp_path, name="a")
    weights = AsrModel(config.features, config.model, len(Vocab())).state_dict()
    facts = {"step": 1, "heard_h": 0.5, "trained_s": 1.0, "config": json.dumps(asdict(config))}
    checkpoint.save(tmp_path / "old.pt", {"model": weights, "average": weights, **facts})
    return tmp_path / "old.pt"


def test_the_grown_network_computes_the_same(source: Path, tmp_path: Path) -> None:
    config = tiny(tmp_path, name="b")
    config = replace(config, model=replace(config.model, layers=4))
    grow(source, config, tmp_path / "new.pt", [0, 2])
    old, new = (checkpoint.load_model(path)[0] for path in (source, tmp_path / "new.pt"))
    assert new.parameter_count > old.parameter_count
    samples, lengths = torch.randn(2, 16_000), torch.tensor([16_000, 9_000])
    with torch.no_grad():
        assert torch.equal(old(samples, lengths)[0], new(samples, lengths)[0])


def test_other_differences_are_refused(source: Path, tmp_path: Path) -> None:
    config = tiny(tmp_path, name="b")
    with pytest.raises(ConfigError, match="2 recurrent blocks and 1 new ones do not make 2"):
        grow(source, config, tmp_path / "new.pt", [1])
    wider = replace(config, model=replace(config.model, layers=3, size=48))
    with pytest.raises(ConfigError, match="differ in more than blocks"):
        grow(source, wider, tmp_path / "new.pt", [2])


def test_an_offline_model_begins_with_what_the_streaming_one_knows(tmp_path: Path) -> None:
    config = tiny(tmp_path, name="a")
    shape = replace(config.model, rnn="gated", context=5, context_ahead=1, lookahead=2)
    torch.manual_seed(1)
    old = AsrModel(config.features, shape, len(Vocab()))
    facts = {"step": 1, "heard_h": 0.5, "trained_s": 1.0, "config": json.dumps(asdict(replace(config, model=shape)))}
    weights = old.state_dict()
    checkpoint.save(tmp_path / "old.pt", {"model": weights, "average": weights, **facts})
    offline = replace(config, model=replace(shape, bidirectional=True, back=16))
    both_ways(tmp_path / "old.pt", offline, tmp_path / "new.pt")
    new = checkpoint.load_model(tmp_path / "new.pt")[0]
    assert new.config.bidirectional
    samples, lengths = torch.randn(2, 16_000), torch.tensor([16_000, 9_000])
    with torch.no_grad():
        torch.testing.assert_close(old(samples, lengths)[0], new(samples, lengths)[0], atol=1e-5, rtol=1e-4)
        for place in block_places(new):  # what runs backwards is there to be learnt
            list(new.network.layers[place].inner)[2].out.weight.normal_()
        ahead, late = new(samples, lengths)[0], samples.clone()
        late[0, -800:] += 1
        assert (new(late, lengths)[0][0, 0] - ahead[0, 0]).abs().max() > 1e-4
    with pytest.raises(ConfigError, match="is not the offline sibling"):
        both_ways(tmp_path / "new.pt", offline, tmp_path / "twice.pt")
    with pytest.raises(ConfigError, match=r"Set \[offline.model\] back"):
        both_ways(tmp_path / "old.pt", replace(offline, model=replace(offline.model, back=0)), tmp_path / "twice.pt")
