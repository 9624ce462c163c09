from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from streamasr import bundle
from streamasr.checksums import digest
from streamasr.config import BeamConfig
from streamasr.engine import Engine
from streamasr.errors import BundleError, ChecksumError, ConfigError
from streamasr.features import LogMel
from tests.conftest import TINY, make_tiny_bundle


@pytest.fixture
def copy(tiny_path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_path, tmp_path / "copy"))


def resum(path: Path) -> None:
    lines = [f"{digest((path / name).read_bytes())}  {name}\n" for name in bundle.CHECKED]
    (path / "SHA256SUMS").write_text("".join(lines))


def edit_config(path: Path, **changes: object) -> None:
    content = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**content, **changes}))
    resum(path)


def test_round_trip(tiny_path: Path) -> None:
    loaded = bundle.load(str(tiny_path))
    assert loaded.model_config == TINY
    assert isinstance(loaded.model.features, LogMel)
    assert float(loaded.model.features.deviation[0]) == 3.0
    assert not any(p.requires_grad for p in loaded.model.parameters())
    with torch.inference_mode():
        log_probs, _ = loaded.model(torch.zeros(1, 1600), torch.tensor([1600]))
    assert log_probs.shape == (1, 3, 29)


def test_found_by_name_and_listed(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMASR_MODELS", str(tiny_path.parent))
    assert bundle.find("tiny") == tiny_path
    summary = next(s for s in bundle.available() if s.name == "tiny")
    assert summary.streaming
    assert summary.lookahead_ms == bundle.load("tiny").model.lookahead_ms
    assert summary.parameters > 0


def test_unknown_name() -> None:
    with pytest.raises(BundleError, match="there is no model 'smal'"):
        bundle.find("smal")


@pytest.mark.parametrize("name", bundle.CHECKED)
def test_changed_file(copy: Path, name: str) -> None:
    with (copy / name).open("ab") as file:
        file.write(b" ")
    with pytest.raises(ChecksumError, match=name):
        bundle.load(str(copy))


def test_missing_weights(copy: Path) -> None:
    (copy / "weights.safetensors").unlink()
    with pytest.raises(BundleError, match=r"no weights\.safetensors"):
        bundle.load(str(copy))


def test_missing_sums(copy: Path) -> None:
    (copy / "SHA256SUMS").unlink()
    with pytest.raises(BundleError, match="SHA256SUMS"):
        bundle.load(str(copy))


def test_unknown_key(copy: Path) -> None:
    edit_config(copy, model={"sise": 3})
    with pytest.raises(ConfigError, match=r"unknown key 'sise'.*'size'"):
        bundle.load(str(copy))
    edit_config(copy, model={}, extra=1)
    with pytest.raises(ConfigError, match="unknown key 'extra'"):
        bundle.load(str(copy))


def test_other_format(copy: Path) -> None:
    edit_config(copy, format=99)
    with pytest.raises(BundleError, match="format 99"):
        bundle.load(str(copy))


def test_config_that_is_no_json(copy: Path) -> None:
    (copy / "config.json").write_text("{")
    resum(copy)
    with pytest.raises(BundleError, match=r"config\.json cannot be read"):
        bundle.load(str(copy))


def test_weights_of_another_shape(copy: Path, tmp_path: Path) -> None:
    other = make_tiny_bundle(tmp_path / "other", replace(TINY, size=16))
    shutil.copy(other / "weights.safetensors", copy / "weights.safetensors")
    resum(copy)
    with pytest.raises(BundleError, match="does not fit"):
        bundle.load(str(copy))


def test_damaged_weights_with_a_matching_sum(copy: Path) -> None:
    (copy / "weights.safetensors").write_bytes(b"nonsense")
    resum(copy)
    with pytest.raises(BundleError, match="does not fit"):
        bundle.load(str(copy))


def test_a_model_carries_the_numbers_of_its_decoder(copy: Path) -> None:
    plain = bundle.load(str(copy))
    assert plain.beam_config() == plain.beam_config(lm=False) == BeamConfig()
    bundle.amend(
        copy,
        beam={"alpha": 0.7, "beta": 1, "unknown": -3.0, "width": 8},
        confidence={"language_model": {"bias": 0.1, "agreed": 0.2, "peak": 0.3}, "greedy": {"agreed": 0.0}},
    )
    loaded = bundle.load(str(copy))
    tuned = BeamConfig(width=8, alpha=0.7, beta=1.0, unknown=-3.0)
    calibrated = replace(tuned, confidence_bias=0.1, confidence_agreed=0.2, confidence_peak=0.3)
    assert loaded.beam_config() == calibrated and loaded.beam_config(lm=False) == tuned
    assert loaded.beam_config(width=32) == replace(calibrated, width=32)
    assert loaded.beam_config(width=1) == replace(tuned, width=1, confidence_agreed=0.0)
    assert Engine(loaded).decoder.config == tuned and Engine(loaded, BeamConfig()).decoder.config == BeamConfig()
    bundle.amend(copy, beam={"alpha": 0.6})  # the other table stays
    assert bundle.load(str(copy)).beam_config().confidence_bias == 0.1
    assert bundle.load(str(copy)).beam_config().alpha == 0.6


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"beam": {"alfa": 1.0}}, "unknown key 'alfa'.*'alpha'"),
        ({"beam": {"alpha": "strong"}}, "alpha = 'strong'"),
        ({"beam": [1]}, r"\[beam\] is \[1\]"),
        ({"confidence": {"loud": {}}}, "'loud'.*language_model"),
        ({"confidence": {"greedy": {"bias": None}}}, "greedy has bias = None"),
        ({"confidence": 3}, "has 3"),
        ({"confidence": {"greedy": 3}}, "greedy is 3"),
    ],
)
def test_wrong_numbers_of_the_decoder(copy: Path, tables: dict[str, object], said: str) -> None:
    edit_config(copy, **tables)
    with pytest.raises(ConfigError, match=said) as error:
        bundle.load(str(copy))
    assert "\n" not in str(error.value)
