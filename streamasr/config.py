"""Every number of the path, frozen; an unknown key is refused with the nearest name."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

from streamasr.errors import ConfigError

ConfigT = TypeVar("ConfigT")


@dataclasses.dataclass(frozen=True)
class FeatureConfig:
    """Log-mel energies: see `features`."""

    rate_hz: int = 16_000
    window_ms: float = 25.0
    hop_ms: float = 10.0
    mels: int = 80
    low_hz: float = 20.0
    high_hz: float = 8_000.0
    floor: float = 1e-6

    @property
    def window(self) -> int:
        """Samples of one window."""
        return round(self.window_ms * self.rate_hz / 1000)

    @property
    def hop(self) -> int:
        """Samples between the starts of two windows."""
        return round(self.hop_ms * self.rate_hz / 1000)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network: see `model`.

    Attributes:
        channels, blocks: channels of the residual CNN, residual blocks at each of its two resolutions.
        rnn, size, layers: kind ("lstm" or "gated"), channels and number of the recurrent layers.
        context: kernel of the depthwise convolution before each of them (0: none).
        context_ahead: in how many of them, the first ones, it looks one frame ahead (offline without `back`: centred).
        lookahead: output frames that the row convolution looks ahead (0: none).
        bidirectional: the offline variant.
        back: in it, memories of a "gated" layer that run backwards beside `size` forwards (0: half of `size` do).
        dropout: rate after every recurrent layer, in training.
        intermediate: the recurrent layer that feeds a second CTC head in training (0: none).
    """

    channels: int = 32
    blocks: int = 1
    rnn: str = "lstm"
    size: int = 512
    layers: int = 3
    context: int = 0
    context_ahead: int = 0
    lookahead: int = 4
    bidirectional: bool = False
    back: int = 0
    dropout: float = 0.0
    intermediate: int = 0


@dataclasses.dataclass(frozen=True)
class BeamConfig:
    """The CTC prefix beam: see `ctc`.

    Attributes:
        width: hypotheses kept; 1 is greedy.
        prune, drop: log-probability of a token, and log-share of the best hypothesis, below which they are left out.
        prune_alone: instead of `prune` where neither language model nor hotwords may yet speak for an unlikely letter.
        tail_s: the longest that text may stay tentative.
        alpha, beta: weight of the language model, and the log-score that every word gains with it.
        unknown: log-score, before alpha, of each letter of a word unknown to the language model, on top of its own.
        blank: taken off the blank's log-probability where there is a language model.
        prior: share of a letter's log-frequency in English that is taken off its log-probability there.
        pairs: share of the log-frequency of a letter, or of a space, after the letter before it that is taken off it.
        rnn: share of the recurrent language model, where there is one, in a word's probability; n-grams have the rest.
        rnn_drop: log-share of the best that a hypothesis needs for the recurrent model to be asked about its next word.
        confidence_bias, confidence_agreed, confidence_peak: a word's confidence is the logistic function of bias +
            agreed * log-odds of its share of the beam + peak * log-odds of its letters' probability (geometric mean).
    """

    width: int = 640
    prune: float = -5.0
    prune_alone: float = -4.0
    tail_s: float = 2.0
    drop: float = -16.0
    alpha: float = 0.55
    beta: float = 0.5
    unknown: float = -2.0
    blank: float = 0.0
    prior: float = 0.0
    pairs: float = 0.0
    rnn: float = 0.5
    rnn_drop: float = -6.0
    confidence_bias: float = -1.0
    confidence_agreed: float = 0.45
    confidence_peak: float = 0.1


@dataclasses.dataclass(frozen=True)
class ConfidenceConfig:
    """The weights of a word's confidence, see `BeamConfig`; calibrated for one way to decode."""

    bias: float = BeamConfig.confidence_bias
    agreed: float = BeamConfig.confidence_agreed
    peak: float = BeamConfig.confidence_peak


DECODINGS = ("language_model", "letters", "greedy")  # ways to decode: a beam with a language model, without, no beam


@dataclasses.dataclass(frozen=True)
class EndpointConfig:
    """When an utterance ends: silence without any speech yet, silence after speech, and the longest utterance."""

    silence_before_s: float = 5.0
    silence_after_s: float = 0.8
    longest_s: float = 20.0


LAG_LIMIT_S = 10.0  # of a microphone's audio that may wait to be recognised

PRESETS: Mapping[str, EndpointConfig] = {
    "captions": EndpointConfig(silence_before_s=5.0, silence_after_s=0.32, longest_s=15.0),  # the final comes soon
    "meeting": EndpointConfig(),
    "dictation": EndpointConfig(silence_before_s=10.0, silence_after_s=1.8, longest_s=40.0),  # time to think
}


@dataclasses.dataclass(frozen=True)
class GateConfig:
    """When the network is spared: see `voice`.

    Attributes:
        voice: probability of a voice in a window from which on there is one.
        hold_s: without a voice before the gate closes and ends an utterance that has not ended.
        before_s: what the network hears of the time before the onset of the voice.
        after_s: from the first window with a voice in it to when the gate opens.
        pause_s: without a voice before the gate closes between utterances.
    """

    voice: float = 0.2
    hold_s: float = 2.0
    before_s: float = 0.5
    after_s: float = 0.096
    pause_s: float = 0.96


def from_mapping(kind: type[ConfigT], values: Mapping[str, Any], where: str) -> ConfigT:
    """Make a config of `kind` from a mapping read from `where` (a file name, for the error).

    Raises:
        ConfigError: an unknown key (the nearest known one is named), or a value of the wrong type.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where} is {values!r}", "a table of keys and values", "Correct the file.")
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    defaults = kind()
    checked: dict[str, Any] = {}
    for key, value in values.items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, 1)
            hint = f"Did you mean {near[0]!r}?" if near else "Remove the key."
            raise ConfigError(f"{where} has the unknown key {key!r}", f"one of {', '.join(fields)}", hint)
        default = getattr(defaults, key)
        kinds = (int, float) if isinstance(default, float) else (type(default),)
        if not isinstance(value, kinds) or (isinstance(value, bool) and not isinstance(default, bool)):
            expected = "a number" if isinstance(default, float) else f"a value like {default!r}"
            raise ConfigError(f"{where} has {key} = {value!r}", expected, "Correct the value.")
        checked[key] = float(value) if isinstance(default, float) else value
    return kind(**checked)


def to_mapping(config: object) -> dict[str, Any]:
    """The config as plain values, for JSON and TOML."""
    return dataclasses.asdict(config)  # type: ignore[call-overload, no-any-return]
