from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmarks import peers
from benchmarks.recognisers import Agreement, Text, Word, live
from streamasr.errors import ManifestError
from streamasr.latency import Spoken

SECOND = np.zeros(16_000, np.float32)


def runs(*answers: Sequence[Word]) -> Agreement:
    left = iter(answers)
    return Agreement(lambda _window, _prompt: next(left))


def test_what_two_runs_agree_on_is_final() -> None:
    agreement = runs(
        [Word(" The", 0.0, 0.3), Word(" cap", 0.3, 0.8)],
        [Word(" the", 0.0, 0.3), Word(" cat", 0.3, 0.8), Word(" sad", 1.0, 1.6)],
        [Word(" The", 0.0, 0.3), Word(" cat", 0.3, 0.8), Word(" sat.", 1.0, 1.6)],
    )
    assert agreement.feed(SECOND) == Text("", " The cap")
    assert agreement.feed(SECOND) == Text(" the", " cat sad")
    assert agreement.feed(SECOND) == Text(" the cat", " sat.")
    assert agreement.finish() == Text(" the cat sat.", "")


def test_a_long_window_is_cut_after_the_last_sentence() -> None:
    heard: list[tuple[int, str]] = []
    words = [Word(" Done.", 0.5, 1.0), Word(" next", 14.0, 14.5)]

    def recognise(window: np.ndarray, prompt: str) -> Sequence[Word]:
        heard.append((len(window), prompt))
        return words if len(heard) < 3 else [Word(" next", 13.0, 13.5)]

    agreement = Agreement(recognise)
    agreement.feed(np.tile(SECOND, 15))
    agreement.feed(SECOND)  # agreed on; 16 s are more than the longest window
    assert agreement.feed(SECOND).committed == " Done. next"
    assert heard == [(240_000, ""), (256_000, ""), (256_000, " Done.")]


def test_all_that_came_meanwhile_is_fed_at_once() -> None:
    sizes: list[int] = []

    def feed(samples: np.ndarray) -> Text:
        sizes.append(len(samples))
        return Text("one", "two")

    heard = live(feed, lambda: Text("one two", ""), np.tile(SECOND, 3), 1.0)
    assert sum(sizes) == 48_000
    assert heard.audio_s == 3.0
    assert heard.history[0].words == ("one", "two")
    assert heard.history[0].at_s >= 1.0
    assert [shown.committed for shown in (heard.history[0], heard.history[-1])] == [1, 2]


def test_figures_and_table() -> None:
    answer = {
        "name": "ours",
        "what": "a model",
        "busy_s": 0.5,
        "audio_s": 10.0,
        "memory_mb": 100,
        "histories": [[[1.0, ["one"], 0], [2.0, ["one", "two"], 2]], [[1.0, ["three"], 1]]],
    }
    said = [[Spoken("one", 0.0, 0.5), Spoken("two", 0.5, 1.0)], [Spoken("four", 0.0, 0.5)]]
    row = peers.measured(answer, ["a/b", "a/c"], ["one two", "four"], said)
    assert row["wer"] == {"a/b": 0.0, "a/c": 100.0}
    assert row["rtf"] == 0.05
    assert row["shown_ms"]["p50"] == 750
    report = {"recognisers": [row], "command": "c", "machine": "m", "load": 1.0, "date": "d", "utterances": 2}
    lines = peers.table({**report, "audio_s": 10.0, "alignment": {"words": 2, "median_ms": 20}}).splitlines()
    assert lines[2].startswith("| ours | 0.0 % | 100.0 % | 0.050 | 750 / ")
    assert "20 ms later" in lines[-1]


def test_utterances_are_spread_over_the_manifest(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.tsv"
    manifest.write_text("".join(f"{n}.wav\t1\tme\tword{'s' * n}\n" for n in range(9)))
    assert [path.stem for path, _ in peers.chosen(manifest, 3)] == ["0", "4", "8"]
    assert len(peers.chosen(manifest, 100)) == 9
    manifest.write_text("")
    with pytest.raises(ManifestError):
        peers.chosen(manifest, 3)
