from __future__ import annotations

import pytest

from streamasr.config import BeamConfig, FeatureConfig, ModelConfig, from_mapping, to_mapping
from streamasr.errors import ConfigError


def test_round_trip() -> None:
    config = ModelConfig(size=64, bidirectional=True)
    assert from_mapping(ModelConfig, to_mapping(config), "test") == config


def test_unknown_key_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'widht'.*Did you mean 'width'"):
        from_mapping(BeamConfig, {"widht": 3}, "beam.toml")


@pytest.mark.parametrize("values", [{"width": "8"}, {"width": 2.5}, {"width": True}, {"tail_s": "long"}])
def test_wrong_type(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"beam.toml has"):
        from_mapping(BeamConfig, values, "beam.toml")


def test_whole_numbers_are_numbers() -> None:
    assert from_mapping(BeamConfig, {"tail_s": 3}, "test").tail_s == 3.0


def test_samples_of_window_and_hop() -> None:
    assert (FeatureConfig().window, FeatureConfig().hop) == (400, 160)
