"""The recipe's numbers, read from TOML.

A file may begin with `inherit = "other.toml"` (a path beside it) and then states only what differs. The tables under
`[offline]` hold what differs for the bidirectional sibling: `[offline.model]`, `[offline.optimiser]`, ...
"""

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
    """Corpora and batches.

    Attributes:
        train, dev: manifests or directories.
        weights: how often each corpus of `train` is heard in an epoch (1 where missing); 0.3 thins it out.
        final_weights, curriculum_epochs: where the weights go, linearly, in that many epochs (none: they stay).
        batch_s: seconds of a batch, padding included, over all processes.
        longest_s: longer utterances are left out.
        short_first_epochs: epochs in which batches go from short to long.
        join_chance, join_longest_s: an utterance is followed by another one, the state carried over.
        workers: processes that prepare batches (0: a thread).
    """

    train: list[str] = field(default_factory=list)
    dev: list[str] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    final_weights: list[float] = field(default_factory=list)
    curriculum_epochs: int = 0
    batch_s: float = 120.0
    longest_s: float = 20.0
    short_first_epochs: int = 1
    join_chance: float = 0.0
    join_longest_s: float = 30.0
    workers: int = 0


@dataclass(frozen=True)
class AugmentConfig:
    """Chances are per utterance; ranges are uniform. `noises` and `rooms` are folders of recordings, where given."""

    speed_chance: float = 0.6
    speed_range: float = 0.12
    tempo_chance: float = 0.0
    tempo_range: float = 0.15
    pitch_chance: float = 0.0
    pitch_semitones: float = 3.0
    gain_low_db: float = -20.0
    gain_high_db: float = 6.0
    noise_chance: float = 0.4
    noise_low_db: float = 5.0
    noise_high_db: float = 40.0
    noises: str = ""
    babble_chance: float = 0.1
    room_chance: float = 0.25
    rooms: str = ""
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
class TechniqueConfig:
    """What can be switched on; see train/README.md for sources and what each gave. (The intermediate CTC head is
    `model.intermediate` with `optimiser.tap_weight`.)

    Attributes:
        consistency: weight of the agreement of two masked views of each utterance (CR-CTC).
        shift_ms: the second view begins up to so much later, so that where frames begin is not learnt.
        distil: weight of the divergence from the teacher's posteriors.
        distil_delay: output frames by which the student may be later than the teacher.
        teacher: the teacher's checkpoint; `train.run` fills it in.
        peak_first: weight of the divergence of each frame from the next, which draws emissions to the left.
        imitate: weight of the squared error to a large recogniser's hidden frames (see `train.imitation`).
        expected_errors: weight of the wrong words that the decoder may expect (see `train.expected_errors`).
        hypotheses: at most so many of each utterance count there.
        trim_chance, trim_longest_ms: cut off up to so much of the end, the text kept (TrimTail).
    """

    consistency: float = 0.0
    shift_ms: float = 0.0
    distil: float = 0.0
    distil_delay: int = 0
    teacher: str = ""
    peak_first: float = 0.0
    imitate: float = 0.0
    expected_errors: float = 0.0
    hypotheses: int = 8
    trim_chance: float = 0.0
    trim_longest_ms: float = 500.0


@dataclass(frozen=True)
class OptimiserConfig:
    """`kind` (adamw, or muon for inner matrices: better steps, but one with `small` takes another second of float32
    products on one core) with linear warm-up, a constant stretch, and a linear decay over the last `decay_steps` of
    `steps`."""

    kind: str = "adamw"
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
    """The run itself.

    Attributes:
        precision: float32, or bfloat16 (autocast; float32 all the same on processors without instructions for it).
        threads: torch's threads (0: its own choice).
        keep_every_steps: keep the weights of every so many steps, for `train.average` (0: only the latest).
    """

    name: str = "run"
    seed: int = 1
    device: str = "auto"
    precision: str = "float32"
    threads: int = 0
    save_every_s: float = 300.0
    keep_every_steps: int = 0
    evaluate_every_steps: int = 500
    log_every_steps: int = 20
    dev_utterances: int = 80
    tensorboard: bool = True


@dataclass(frozen=True)
class RecipeConfig:
    """What `train.run` does around the training.

    Attributes:
        sets: LibriSpeech sets to download and train on; `eval_sets`: to download and measure on.
        mirror: where the archives of LibriSpeech lie.
        synth_hours, synth_dev_hours: hours of speech to synthesise; `synth_text`: sentences, one a line (.txt, .xz);
            `voices`: "hibari" or "kokoro"; `synth_archive`: Kokoro's voices (.npz).
        offline: train the bidirectional sibling first.
        eval_utterances: utterances of each set that the released figures are measured on (0: all).
        models: the folder to release into ("": the cache).
    """

    sets: list[str] = field(default_factory=list)
    eval_sets: list[str] = field(default_factory=list)
    mirror: str = "http://www.openslr.org/resources/12/"
    synth_hours: float = 0.0
    synth_dev_hours: float = 0.0
    synth_text: str = ""
    voices: str = "hibari"
    synth_archive: str = ""
    offline: bool = True
    eval_utterances: int = 0
    models: str = "models"


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    features: FeatureConfig = field(default_factory=FeatureConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = AugmentConfig()
    technique: TechniqueConfig = TechniqueConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    run: RunConfig = RunConfig()
    recipe: RecipeConfig = field(default_factory=RecipeConfig)


SECTIONS: dict[str, Any] = {
    "features": FeatureConfig,
    "model": ModelConfig,
    "data": DataConfig,
    "augment": AugmentConfig,
    "technique": TechniqueConfig,
    "optimiser": OptimiserConfig,
    "run": RunConfig,
    "recipe": RecipeConfig,
}
Tables = dict[str, dict[str, Any]]


def read_config(path: Path, overrides: list[str] | None = None, *, offline: bool = False) -> TrainConfig:
    """Read a TOML file; `overrides` are "section.key=value" or "offline.section.key=value", with TOML values.

    Args:
        offline: read the bidirectional sibling: the tables under [offline] count too, and the run's name ends in
            "_offline" unless they name it.

    Raises:
        ConfigError: unreadable file, unknown section or key, wrong type.
    """
    streaming, sibling = _read(path, ())
    for override in overrides or []:
        key, _, value = override.partition("=")
        names = key.strip().split(".")
        tables = streaming
        if names[0] == "offline":
            tables, names = sibling, names[1:]
        if len(names) != 2:
            raise ConfigError(f"there is an override {override!r}", "section.key=value", "Correct it.")
        try:
            tables.setdefault(names[0], {})[names[1]] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(
                f"the override {override!r} cannot be read ({error})", 'a TOML value ("text", 1, [2])'
            ) from None
    _check_sections(path, {**streaming, **sibling})
    if offline:
        name = streaming.get("run", {}).get("name", RunConfig.name)
        _merge(streaming, {"run": {"name": f"{name}_offline"}})
        _merge(streaming, sibling)
    return TrainConfig(**{k: from_mapping(kind, streaming.get(k, {}), f"{path} [{k}]") for k, kind in SECTIONS.items()})


def _check_sections(path: Path, tables: Tables) -> None:
    for section, content in tables.items():
        if section not in SECTIONS:
            raise ConfigError(
                f"{path} has the section [{section}]", f"one of {', '.join(SECTIONS)}, offline", "Correct it."
            )
        if not isinstance(content, dict):
            raise ConfigError(f"{path} has {section} = {content!r}", f"a section [{section}]", "Correct it.")


def _merge(into: Tables, tables: Tables) -> None:
    for section, content in tables.items():
        into.setdefault(section, {}).update(content)


def _read(path: Path, heirs: tuple[Path, ...]) -> tuple[Tables, Tables]:
    """The tables of a file and of those that it inherits from, and the tables under [offline]."""
    if path.resolve() in heirs:
        raise ConfigError(f"{path} inherits from itself", "a chain of files that ends", "Correct `inherit`.")
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read ({error})", "a TOML file", "Correct it.") from None
    parent = tables.pop("inherit", None)
    sibling = tables.pop("offline", {})
    _check_sections(path, {**tables, **sibling})
    if parent is None:
        return tables, sibling
    streaming, offline = _read(path.parent / str(parent), (*heirs, path.resolve()))
    _merge(streaming, tables)
    _merge(offline, sibling)
    return streaming, offline
