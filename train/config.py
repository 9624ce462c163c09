"""The recipe's numbers, read from TOML."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streamasr.config import FeatureConfig, ModelConfig, from_mapping
from streamasr.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class DataConfig:
    """Corpora and batches. `train` and `dev` are manifests or directories; `weights` repeat or thin out a corpus."""

    train: list[str] = field(default_factory=list)
    dev: list[str] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    batch_s: float = 120.0
    longest_s: float = 20.0
    short_first_epochs: int = 1
    join_chance: float = 0.0
    join_longest_s: float = 30.0


@dataclass(frozen=True)
class AugmentConfig:
    """Chances are per utterance; ranges are uniform."""

    speed_chance: float = 0.6
    speed_range: float = 0.12
    gain_low_db: float = -20.0
    gain_high_db: float = 6.0
    noise_chance: float = 0.4
    noise_low_db: float = 5.0
    noise_high_db: float = 40.0
    babble_chance: float = 0.1
    room_chance: float = 0.25
    band_chance: float = 0.1
    codec_chance: float = 0.05
    silence_chance: float = 0.3
    silence_longest_s: float = 0.6
    frequency_masks: int = 2
    frequency_width: int = 18
    time_masks: int = 3
    time_width: int = 30
    time_share: float = 0.12


@dataclass(frozen=True)
class OptimiserConfig:
    """AdamW with linear warm-up, a constant stretch, and a linear decay over the last `decay_steps` of `steps`."""

    rate: float = 1.0e-3
    warmup_steps: int = 400
    steps: int = 100_000
    decay_steps: int = 0
    weight_decay: float = 0.01
    clip: float = 5.0
    ema: float = 0.998
    tap_weight: float = 0.3


@dataclass(frozen=True)
class RunConfig:
    """The run itself. `precision` is float32 or bfloat16 (autocast); `threads` 0 leaves torch's own choice."""

    name: str = "run"
    seed: int = 1
    device: str = "auto"
    precision: str = "float32"
    threads: int = 0
    save_every_s: float = 300.0
    evaluate_every_steps: int = 500
    log_every_steps: int = 20
    dev_utterances: int = 80


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    features: FeatureConfig = FeatureConfig()
    model: ModelConfig = ModelConfig()
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = AugmentConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    run: RunConfig = RunConfig()


def read_config(path: Path, overrides: list[str] | None = None) -> TrainConfig:
    """Read a TOML file; `overrides` are "section.key=value" with TOML values.

    Raises:
        ConfigError: unreadable file, unknown section or key, wrong type.
    """
    try:
        tables: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        for override in overrides or []:
            key, _, value = override.partition("=")
            section, _, name = key.strip().partition(".")
            tables.setdefault(section, {})[name] = tomllib.loads(f"value = {value}")["value"]
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read ({error})", "a TOML file", "Correct it.") from None
    kinds = {
        "features": FeatureConfig,
        "model": ModelConfig,
        "data": DataConfig,
        "augment": AugmentConfig,
        "optimiser": OptimiserConfig,
        "run": RunConfig,
    }
    for section in tables:
        if section not in kinds:
            raise ConfigError(f"{path} has the section [{section}]", f"one of {', '.join(kinds)}", "Correct it.")
    return TrainConfig(**{k: from_mapping(kind, tables.get(k, {}), f"{path} [{k}]") for k, kind in kinds.items()})
