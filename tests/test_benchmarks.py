"""The benchmarks' own parts, on a tiny model; what they measure is no test."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import capacity, parts, phase, precision
from streamasr.bundle import Bundle
from streamasr.engine import Engine

NOISE = (np.random.default_rng(0).standard_normal(32_000) * 0.1).astype(np.float32)


def test_time_within_an_inner_part_is_not_counted_twice() -> None:
    counts = parts.Parts()
    inner = counts.counted(lambda: sum(range(200_000)), "inner")
    counts.counted(lambda: (inner(), sum(range(1_000))), "outer")()
    assert counts.spent_s["inner"] > counts.spent_s["outer"] >= 0


@pytest.mark.parametrize("streams", [1, 3])
def test_parts_of_one_stream_and_of_many(tiny_bundle: Bundle, streams: int) -> None:
    counts = parts.watch(Engine(tiny_bundle))
    engine = Engine(tiny_bundle)
    run = parts.alone if streams == 1 else parts.together
    extra = () if streams == 1 else (streams, 5)
    assert run(engine, NOISE, 2_560, *extra) == (12 if streams == 1 else 15)
    assert counts.spent_s["features"] > 0  # of the model, which both share
    for layer in tiny_bundle.model.network:
        del layer.step  # as it was
    del tiny_bundle.model.features.step


def test_the_plain_network_gives_the_same_text(tiny_bundle: Bundle) -> None:
    expected = precision.text_of(Engine(tiny_bundle), NOISE, 0.16)
    kept = [(m, n, getattr(m, n)) for m in tiny_bundle.model.modules() for n in precision.PREPARED if hasattr(m, n)]
    assert any(value is not None for _, _, value in kept)
    try:
        assert precision.text_of(precision.plain(Engine(tiny_bundle)), NOISE, 0.16) == expected
    finally:
        for module, name, value in kept:
            setattr(module, name, value)


def test_streams_in_real_time_are_heard_to_their_end(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "_engine", Engine(tiny_bundle))
    monkeypatch.setattr(capacity, "SETTLED_S", 0.0)
    found = capacity.real_time(2, 0.8, 0)
    assert found["complete"] == 2
    assert all(wait_s >= capacity.BLOCK_S for wait_s in found["waits_s"])


def test_what_is_heard_again_is_compared(tiny_bundle: Bundle) -> None:
    found = phase.compared(Engine(tiny_bundle), [NOISE], ["a b"])
    assert set(found) == {"as it is", *phase.changed([NOISE])}
    assert all(len(again) == 1 for again in phase.changed([NOISE]).values())
    assert phase.text_of(Engine(tiny_bundle), NOISE)
