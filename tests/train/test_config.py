"""Configs: inheritance, the offline sibling, overrides, and every file in train/configs."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamasr.config import FeatureConfig
from streamasr.errors import ConfigError
from streamasr.model import AsrModel
from train.config import read_config
from train.run import with_data

CONFIGS = Path(__file__).parents[2] / "train" / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_config_gives_a_streaming_and_an_offline_model(path: Path) -> None:
    streaming, offline = read_config(path), read_config(path, offline=True)
    assert not streaming.model.bidirectional
    assert offline.model.bidirectional
    assert offline.run.name == f"{streaming.run.name}_offline"
    model = AsrModel(streaming.features, streaming.model, 29)
    assert model.lookahead_ms + 25 + 80 <= 500  # with a window and half of a chunk of 160 ms
    assert AsrModel(FeatureConfig(), offline.model, 29).frame_ms == model.frame_ms


def test_small_fits_the_repository() -> None:
    config = read_config(CONFIGS / "small.toml")
    assert AsrModel(config.features, config.model, 29).parameter_count * 2 < 32e6


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_inheritance_and_overrides(tmp_path: Path) -> None:
    write(tmp_path / "a.toml", '[run]\nname = "a"\nseed = 3\n[offline.model]\nbidirectional = true\n')
    heir = write(tmp_path / "b.toml", 'inherit = "a.toml"\n[run]\nname = "b"\n[offline.optimiser]\nsteps = 7\n')
    config = read_config(heir, ["optimiser.steps=5", "offline.run.seed=9"])
    assert (config.run.name, config.run.seed, config.optimiser.steps) == ("b", 3, 5)
    sibling = read_config(heir, ["optimiser.steps=5", "offline.run.seed=9"], offline=True)
    assert (sibling.run.name, sibling.run.seed, sibling.optimiser.steps) == ("b_offline", 9, 7)
    assert sibling.model.bidirectional


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[modle]\nsize = 1", r"section \[modle\]"),
        ("[model]\nsise = 1", "Did you mean 'size'"),
        ('[model]\nsize = "big"', "has size = 'big'"),
        ("run = 3", r"has run = 3"),
        ("[offline.modle]\nsize = 1", r"section \[modle\]"),
        ('inherit = "c.toml"', "inherits from itself"),
        ('inherit = "nowhere.toml"', "cannot be read"),
        ("[model", "cannot be read"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config(write(tmp_path / "c.toml", text))


@pytest.mark.parametrize("override", ["steps=3", "optimiser.steps=many", "a.b.c=1", "optimizer.steps=3"])
def test_wrong_overrides_are_told(tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError):
        read_config(write(tmp_path / "c.toml", ""), [override])


def test_data_replaces_or_adds(tmp_path: Path) -> None:
    config = read_config(write(tmp_path / "c.toml", '[data]\ntrain = ["a", "b"]\nweights = [0.5]\ndev = ["d"]\n'))
    replaced = with_data(config, "x,y", ["z"], ["e"]).data
    assert (replaced.train, replaced.weights, replaced.dev) == (["x", "y", "z"], [1, 1, 1], ["d", "e"])
    added = with_data(config, "+x", [], []).data
    assert (added.train, added.weights) == (["a", "b", "x"], [0.5, 1, 1])
    assert with_data(config, "", [], []).data.train == ["a", "b"]
