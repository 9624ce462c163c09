"""One stream's whole path: samples in, events out. A state is a value: it goes in last and comes out last.

Nothing here has a thread, a clock, a file or a global; any number of streams share one engine.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamasr.bundle import Bundle
from streamasr.config import BeamConfig, EndpointConfig
from streamasr.ctc import Decoder, LogProbs, SpokenWord
from streamasr.endpoint import Endpointer, EndpointState
from streamasr.errors import BundleError, SampleError
from streamasr.events import End, Event, Final, Partial, SpeechStarted, Word
from streamasr.lm import LanguageModel
from streamasr.onset import onset
from streamasr.stream_state import StreamState
from streamasr.voice import WINDOW, Gate, GateState
from streamasr.work import Heard, Listen, Request, Step, Work, log_probs

Samples = NDArray[np.float32]
ResultT = TypeVar("ResultT")

PIECE_S = 4.0  # long inputs are worked off in pieces of this length, which bounds memory
WARM_PAUSE_S = 0.6  # audio heard again by the fresh network state after an utterance that ended in silence
WARM_SPEECH_S = 3.0  # likewise, after an utterance that was cut off because it became too long
ONSET_S = 0.64  # before the gate opened: there the onset of the voice is looked for


class Engine:
    """Streams through one model. The model is only read, so an engine may serve several threads.

    Args:
        beam: the decoder's numbers; None: those of the model.
        gate: spares the network where there is no voice; None: the network hears everything.

    Raises:
        BundleError: a model that needs the whole utterance.
    """

    def __init__(
        self,
        bundle: Bundle,
        beam: BeamConfig | None = None,
        endpoint: EndpointConfig | None = None,
        device: str = "cpu",
        lm: LanguageModel | None = None,
        hotwords: Mapping[str, float] | None = None,
        gate: Gate | None = None,
    ) -> None:
        if bundle.model_config.bidirectional:
            raise BundleError(
                f"the model {bundle.name!r} needs the whole utterance",
                "a streaming model",
                "Choose one that `streamasr models` marks as streaming.",
            )
        self.bundle, self.device = bundle, torch.device(device)
        self.model = bundle.model.to(self.device)
        self.frame_s = self.model.frame_ms / 1000
        self.rate_hz = bundle.feature_config.rate_hz
        self.lm, self.gate = lm, gate
        beam = beam or bundle.beam_config(lm=lm is not None)
        self.decoder = Decoder(bundle.vocab, beam, self.frame_s, lm, hotwords)
        self.endpointer = Endpointer(endpoint or EndpointConfig(), self.model.frame_ms, bundle.vocab.space)
        self._stride = self.model.network.stride
        self._frame = self._stride * bundle.feature_config.hop  # samples
        self._lead = round(gate.config.before_s * self.rate_hz) if gate else 0
        self._sought = round(ONSET_S * self.rate_hz)
        self._fresh = self.model.init_state(1)  # steps leave states as they are, so that all streams may begin with it
        self._kept = round(WARM_SPEECH_S / self.frame_s) * self._stride + self.model.network.right + 2 * self._stride

    def start(self) -> StreamState:
        """The state of a stream before its first sample."""
        features, network = self._fresh
        history = features.samples.new_zeros(1, self.bundle.feature_config.mels, 0)
        state = StreamState(features, history, network, self.decoder.start())
        return state._replace(gate=GateState(), voice=self.gate.detector.start()) if self.gate else state

    def tuned(self, endpoint: EndpointConfig | None = None, hotwords: Mapping[str, float] | None = None) -> Engine:
        """An engine on the same model with other endpoint rules, or hotwords (phrases and boosts); None: as they are.

        States of either go on in the other where the hotwords are the same.

        Raises:
            DecoderError: hotwords that cannot be spelled.
        """
        other = copy.copy(self)
        if endpoint is not None:
            other.endpointer = Endpointer(endpoint, self.model.frame_ms, self.bundle.vocab.space)
        if hotwords is not None:
            other.decoder = Decoder(self.bundle.vocab, self.decoder.config, self.frame_s, self.lm, hotwords)
        return other

    def alternatives(self, state: StreamState, count: int = 5) -> list[tuple[str, float]]:
        """The `count` best texts of what was decoded of this utterance, and the logs of their probabilities.

        They differ in what is not committed yet.
        """
        return self.decoder.alternatives(state.beam, count)

    def time_s(self, state: StreamState) -> float:
        """Seconds heard so far, gaps included."""
        return state.samples / self.rate_hz + state.skipped_s

    @torch.inference_mode()
    def run(self, work: Work[ResultT]) -> ResultT:
        """Do the work of one stream by itself."""
        try:
            request = next(work)
            while True:
                request = work.send(self.answer(request))
        except StopIteration as end:
            result: ResultT = end.value
            return result

    @torch.inference_mode()
    def answer(self, request: Request) -> Any:
        """The answer to one request of one stream."""
        if isinstance(request, Step):
            logits, network = self.model.network.step(*request)
            return log_probs(logits)[0], network
        energies, features = torch.zeros(1, self.bundle.feature_config.mels, 0), request.features
        if features is not None:
            energies, features = self.model.features.step(request.samples[None].to(self.device), features)
        if request.voice is None or self.gate is None:
            return Heard(energies, features, [], request.voice)
        return Heard(energies, features, *self.gate.detector.step(request.samples, request.voice))

    def feed(self, samples: Samples, state: StreamState) -> tuple[list[Event], StreamState]:
        """Hear the next samples, (S,) float32 mono at 16 kHz in -1..1, S >= 0.

        Raises:
            SampleError: samples that are not finite numbers; the state that was given is still good.
        """
        return self.run(self.feeding(samples, state))

    def peek(self, state: StreamState) -> Partial:
        """The best guess at all that was heard, the audio still held back included. The state stays as it is."""
        return self.run(self.peeking(state))

    def finalize(self, state: StreamState) -> tuple[list[Event], StreamState]:
        """End the utterance now, without waiting for silence; the stream goes on as if nothing had happened."""
        return self.run(self.finalizing(state))

    def skip(self, seconds: float, state: StreamState) -> tuple[list[Event], StreamState]:
        """The source lost `seconds`: end the utterance and let the clock jump."""
        return self.run(self.skipping(seconds, state))

    def finish(self, state: StreamState) -> list[Event]:
        """End of the stream: window, network and beam are flushed, and nothing that was heard is lost."""
        return self.run(self.finishing(state))

    def feeding(self, samples: Samples, state: StreamState) -> Work[tuple[list[Event], StreamState]]:
        """`feed` as work."""
        heard = np.asarray(samples, np.float32).reshape(-1)
        if not np.isfinite(heard).all():
            at = int(np.flatnonzero(~np.isfinite(heard))[0])
            raise SampleError(
                f"sample {state.samples + at} is {heard[at]}",
                "finite numbers in -1..1",
                "Check the source of the audio.",
            )
        events: list[Event] = []
        piece = round(PIECE_S * self.rate_hz)
        for begin in range(0, len(heard), piece):
            found, state = yield from self._admit(torch.tensor(heard[begin : begin + piece]), state)
            events += found
        found, state = self._show(state)
        return events + found, state

    def peeking(self, state: StreamState) -> Work[Partial]:
        """`peek` as work."""
        if not state.gate.open:
            return Partial("", "", self.time_s(state), self.time_s(state))
        events, flushed = yield from self._flush(state)
        ended = "".join(event.text + " " for event in events if isinstance(event, Final))
        reading = self.decoder.read(flushed.beam)
        words = reading.all_words
        start_s, end_s = self._span(words, state) if words else (self.time_s(state),) * 2
        return Partial(ended + reading.committed, reading.tentative, start_s, end_s)

    def finalizing(self, state: StreamState) -> Work[tuple[list[Event], StreamState]]:
        """`finalize` as work."""
        opened: list[Event] = []
        if not state.gate.open:  # perhaps a word has just begun
            heard, state = yield from self._open(torch.zeros(0), state)
            opened, state = yield from self._hear(
                heard.energies, state._replace(features=heard.features or state.features)
            )
        events, flushed = yield from self._flush(state)
        final, flushed = self._final(flushed)
        ahead = state.ahead + flushed.frames - state.frames
        kept = state._replace(beam=flushed.beam, frames=flushed.frames, ahead=ahead)
        return opened + events + final, kept._replace(endpoint=EndpointState(), last=("", ""), begun=False)

    def skipping(self, seconds: float, state: StreamState) -> Work[tuple[list[Event], StreamState]]:
        """`skip` as work."""
        events, _ = yield from self.finalizing(state)
        skipped_s = state.skipped_s + seconds
        return events, self.start()._replace(
            samples=state.samples,
            origin=state.samples,
            skipped_s=skipped_s,
            shift_s=state.samples / self.rate_hz + skipped_s,
        )

    def finishing(self, state: StreamState) -> Work[list[Event]]:
        """`finish` as work."""
        events, _ = yield from self.finalizing(state)
        return [*events, End(self.time_s(state))]

    def _admit(self, samples: Tensor, state: StreamState) -> Work[tuple[list[Event], StreamState]]:
        """Next samples (S,) through the gate. The network hears them where it is open; else they are kept."""
        known = self.gate.detector.missing(state.voice) if self.gate and state.voice else 0  # end of the next window
        heard: Heard = yield Listen(samples, state.features if state.gate.open else None, state.voice)
        state = state._replace(voice=heard.voice)
        probabilities, begin, given = heard.probabilities, 0, 0
        held = state.features.samples.shape[-1]  # before the samples that `heard` begins with
        events: list[Event] = []
        while True:
            turn, gate = self.gate.scan(probabilities, state.gate) if self.gate else (None, state.gate)
            end = len(samples) if turn is None else known + turn * WINDOW
            state = self._remember(samples[begin:end], state)._replace(gate=gate)
            held += end - begin
            if gate.open:
                complete = self.model.features.complete(held)
                found, state = yield from self._hear(heard.energies[..., given:complete], state)
                events, given = events + found, complete
            if turn is None:
                return events, state._replace(features=heard.features or state.features)
            if gate.open:
                found, state = self._close(state)
                events += found
            else:
                heard, state = yield from self._open(samples[end:], state)
                held, given = state.features.samples.shape[-1] + state.samples - state.origin, 0
            probabilities, known, begin = probabilities[turn + 1 :], end + WINDOW, end

    def _remember(self, samples: Tensor, state: StreamState) -> StreamState:
        """Count the next samples, and keep them where they may be wanted."""
        count = len(samples)
        if not self.gate or count == 0:
            return state._replace(samples=state.samples + count)
        recent, remembered = (*state.recent, samples), state.remembered + count
        while (without := remembered - len(recent[0])) >= self._lead + self._sought:
            recent, remembered = recent[1:], without
        return state._replace(samples=state.samples + count, recent=recent, remembered=remembered)

    def _open(self, following: Tensor, state: StreamState) -> Work[tuple[Heard, StreamState]]:
        """Let the network hear, from a while ago on: what was said before a voice was found is not lost.

        Frames are laid anew, from a place that the onset of the voice fixes. What is decoded already stays so.

        Returns:
            the energies from the new `origin` on, of the `following` samples, too; and the state at `origin`.
        """
        recent = torch.cat([torch.zeros(0), *state.recent])[-self._lead - self._sought :]
        oldest = state.samples - len(recent)
        sought = recent[-self._sought :]
        place = onset(sought.numpy())
        if place is None:
            origin = state.origin + _up(oldest - state.origin, self._frame)
        else:
            origin = state.samples - len(sought) + place - self._lead
            origin += max(0, _up(oldest - origin, self._frame))
        origin = min(origin, state.samples)
        features, network = self._fresh
        samples = torch.cat([recent[origin - oldest :], following])
        heard: Heard = yield Listen(samples, features, None)
        decoded = state.origin + state.frames * self._frame  # up to this sample
        first = max(0, _up(decoded - origin, self._frame) // self._frame)
        moved_s = (origin - state.origin) / self.rate_hz + (first - state.frames) * self.frame_s
        return heard, state._replace(
            features=features,
            history=state.history[..., :0],
            network=network,
            endpoint=EndpointState(),
            origin=origin,
            hops=0,
            frames=first,
            ahead=first,
            shift_s=state.shift_s + moved_s,
            gate=state.gate._replace(open=True),
        )

    def _close(self, state: StreamState) -> tuple[list[Event], StreamState]:
        """Spare the network from now on, if the utterance has ended. Letters that it still finds where there is no
        voice, as in music, do not keep it awake for long: they end, too.
        """
        assert self.gate
        is_over = self.gate.is_over(state.gate)
        quiet_s = state.gate.quiet * WINDOW / self.rate_hz
        if state.endpoint.spoken and not (is_over and quiet_s >= self.endpointer.config.silence_after_s):
            return [], state
        events, state = self._final(state)
        network, gate = self._fresh.network, state.gate._replace(open=False)
        return events, state._replace(network=network, ahead=0, gate=gate)

    def _flush(self, state: StreamState) -> Work[tuple[list[Event], StreamState]]:
        """All that is held back, decoded as if the stream ended here."""
        energies = self.model.features.flush(state.features)
        rows = log_probs(self.model.network.end(energies[:, None], state.network))[0]
        return (yield from self._decode(rows, state, ended=True))

    def _hear(self, energies: Tensor, state: StreamState) -> Work[tuple[list[Event], StreamState]]:
        """Next energies (1, mels, T) through network, endpoint rules and beam."""
        if energies.shape[-1] == 0:
            return [], state
        rows, network = yield Step(energies[:, None], state.network)
        history = torch.cat([state.history, energies], -1)  # long enough for an endpoint anywhere in these
        state = state._replace(network=network, history=history, hops=state.hops + energies.shape[-1])
        events, state = yield from self._decode(rows, state)
        return events, state._replace(history=state.history[..., -self._kept :])

    def _decode(self, rows: LogProbs, state: StreamState, ended: bool = False) -> Work[tuple[list[Event], StreamState]]:
        """Next log-probabilities (T, tokens) through endpoint rules and beam. `ended`: the network is flushed."""
        events: list[Event] = []
        passed = min(state.ahead, len(rows))
        rows = rows[passed:]
        state = state._replace(ahead=state.ahead - passed)
        while True:
            endpoint, rules = self.endpointer.scan(rows.argmax(-1).tolist(), state.endpoint)
            count = len(rows) if endpoint is None else endpoint.at + 1
            beam = self.decoder.step(rows[:count], state.beam)
            state = state._replace(beam=beam, endpoint=rules, frames=state.frames + count)
            if endpoint is None:
                return events, state
            final, state = self._final(state)
            events += final
            rows = rows[count:]
            if not ended:
                warm_s = WARM_PAUSE_S if endpoint.pause else WARM_SPEECH_S
                first = max(self._oldest(state), state.frames - round(warm_s / self.frame_s))
                rows, state = yield from self._rewarm(state, first)

    def _oldest(self, state: StreamState) -> int:
        """The first output frame whose energies are all kept."""
        return -(-(state.hops - state.history.shape[-1]) // self._stride)

    def _rewarm(self, state: StreamState, first: int) -> Work[tuple[LogProbs, StreamState]]:
        """A fresh network state that has heard all again from output frame `first` on, and its outputs (T, tokens)
        from `state.frames` on; those decoded already are `ahead`.

        A recurrent state that is carried for long drifts; a fresh one behaves as in training.
        """
        oldest = state.hops - state.history.shape[-1]
        energies = state.history[..., first * self._stride - oldest :]
        rows, network = yield Step(energies[:, None], self._fresh.network)
        known = state.frames - first
        return rows[known:], state._replace(network=network, ahead=max(0, known - len(rows)))

    def _word(self, word: SpokenWord, state: StreamState) -> Word:
        start_s, end_s = (frame * self.frame_s + state.shift_s for frame in (word.start, word.end))
        return Word(word.text, round(start_s, 3), round(end_s, 3), round(word.confidence, 4))

    def _span(self, words: Sequence[SpokenWord], state: StreamState) -> tuple[float, float]:
        """Where the first of them begins and the last one ends, in seconds."""
        return self._word(words[0], state).start_s, self._word(words[-1], state).end_s

    def _final(self, state: StreamState) -> tuple[list[Event], StreamState]:
        """End the utterance; without words there is no event."""
        spoken, beam = self.decoder.finish(state.beam)
        words = tuple(self._word(word, state) for word in spoken)
        events: list[Event] = []
        if words:
            if not state.begun:
                events.append(SpeechStarted(words[0].start_s))
            text = " ".join(word.text for word in words)
            events.append(Final(text, words, words[0].start_s, words[-1].end_s))
        return events, state._replace(beam=beam, last=("", ""), begun=False)

    def _show(self, state: StreamState) -> tuple[list[Event], StreamState]:
        """A Partial, if the text has changed."""
        reading = self.decoder.read(state.beam)
        if not reading.all_words or (reading.committed, reading.tentative) == state.last:
            return [], state
        start_s, end_s = self._span(reading.all_words, state)
        events: list[Event] = [] if state.begun else [SpeechStarted(start_s)]
        events.append(Partial(reading.committed, reading.tentative, start_s, end_s))
        return events, state._replace(last=(reading.committed, reading.tentative), begun=True)


def _up(count: int, unit: int) -> int:
    """The next whole number of units."""
    return -(-count // unit) * unit
