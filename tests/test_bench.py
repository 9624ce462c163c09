from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from streamasr import bench
from streamasr.bundle import Bundle
from streamasr.cli import main
from streamasr.engine import Engine
from streamasr.events import Final, Partial
from streamasr.latency import Clock, Shown, Spoken, latencies, percentiles_ms, spoken
from streamasr.verbs.bench import bars

NOISE = (np.random.default_rng(0).standard_normal(24_000) * 0.1).astype(np.float32)


def test_clock_queues() -> None:
    clock = Clock()
    assert clock.work(1.0, 0.5) == 1.5
    assert clock.work(1.2, 0.5) == 2.0  # waits for the work before it
    assert clock.work(9.0, 0.5) == 9.5  # waits for the audio


def test_a_word_counts_from_when_it_is_shown_at_its_place() -> None:
    said = [Spoken("one", 0.0, 0.3), Spoken("two", 0.5, 0.9), Spoken("three", 1.0, 1.4)]
    history = [
        Shown(0.5, ("won",), 0),
        Shown(1.0, ("one", "to"), 1),
        Shown(1.5, ("one", "two"), 1),
        Shown(2.5, ("one", "two", "tree"), 3),
    ]
    found = latencies(history, said)  # "three" was never right
    assert [latency.word.text for latency in found] == ["one", "two"]
    assert [latency.shown_s for latency in found] == pytest.approx([0.7, 0.6])
    assert [latency.committed_s for latency in found] == pytest.approx([0.7, 1.6])
    assert latencies([], said) == []


def test_forced_alignment_follows_the_words(tiny_bundle: Bundle) -> None:
    words = spoken(tiny_bundle, NOISE, ("see", "it", "now"))
    assert [word.text for word in words] == ["see", "it", "now"]
    assert all(0 <= word.start_s < word.end_s <= 1.52 for word in words)
    assert all(a.end_s <= b.start_s for a, b in itertools.pairwise(words))
    assert spoken(tiny_bundle, NOISE[:800], ("does", "not", "fit")) == []
    assert spoken(tiny_bundle, NOISE, ()) == []


def test_screen_counts_words_that_stay() -> None:
    screen = bench.Screen()
    screen.take(Partial("the ca", "t", 0.0, 1.0), 1.0)
    screen.take(Final("the cat", (), 0.0, 1.0), 2.0)
    screen.take(Partial("sat ", "on", 2.0, 3.0), 3.0)
    assert screen.history == [
        Shown(1.0, ("the", "cat"), 1),
        Shown(2.0, ("the", "cat"), 2),
        Shown(3.0, ("the", "cat", "sat", "on"), 3),
    ]


def test_text_does_not_depend_on_how_much_is_heard_at_once(tiny_bundle: Bundle) -> None:
    engine = Engine(tiny_bundle)
    texts = {
        " ".join(final.text for final, _ in bench.heard(engine, NOISE, chunk_s)[1]) for chunk_s in (0.04, 0.16, 0.5)
    }
    assert len(texts) == 1
    assert texts != {""}


def test_rounds_of_many_streams(tiny_bundle: Bundle) -> None:
    costs = bench.round_costs(Engine(tiny_bundle), 3, NOISE, 0.4, iter(range(100)).__next__)  # type: ignore[arg-type]
    assert costs == [1, 1, 1, 1, 1]


def test_report_is_saved_shown_and_compared(
    tmp_path: Path, tiny_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soundfile.write(tmp_path / "a.wav", NOISE, 16_000)
    (tmp_path / "m.tsv").write_text("a.wav\t1.5\tme\tsee it now\na.wav\t1.5\tme\tagain\n")
    kept = tmp_path / "report.json"
    arguments = ["bench", str(tmp_path / "m.tsv"), "--utterances", "1", "--quick", "--lm", "none"]
    assert main([*arguments, "--model", str(tiny_path), "--save", str(kept)]) == 0
    assert "real-time factor, chunks of 0.16 s" in capsys.readouterr().out
    report = json.loads(kept.read_text())
    assert report["audio_s"] == 1.5
    assert set(report["rtf"]) == {"0.08", "0.16", "0.32", "1"}
    assert main(["bench", "--compare", str(kept), str(kept)]) == 0
    assert "1.00" in capsys.readouterr().out
    assert main(["bench", "--compare", str(kept), str(tmp_path / "m.tsv")]) == 1
    assert "expected a report" in capsys.readouterr().err


def test_percentiles_and_bars() -> None:
    assert percentiles_ms([]) == {}
    assert percentiles_ms([0.1, 0.2, 0.3])["p50"] == 200
    assert bars([0.05, 0.25, 9.0])[0] == ("<200", 1)
    assert bars([9.0]) == [(">4000", 1)]
    assert bars([]) == []
