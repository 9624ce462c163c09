"""The page in a real browser: captions of the room, and of the browser's own microphone."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest
import soundfile

from streamasr.bundle import Bundle
from streamasr.engine import Engine
from streamasr.events import Final, Partial, Word
from tests import browser
from tests.serving import QUICK, serving, warm
from tests.test_engine import noise_bursts

PROGRAM = browser.find()
needs_browser = pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed (apt-get install chromium)")
PATIENCE_S = 150.0
WORDS = (Word("good", 0.2, 0.5, 0.9), Word("morning", 0.6, 1.1, 0.9))
SHOWN = "(document.querySelector('#{} .finals')?.innerText ?? '').trim()"


@pytest.fixture(scope="module")
def engine(tiny_bundle: Bundle) -> Engine:
    return warm(Engine(tiny_bundle, endpoint=QUICK))


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "talk.wav"
    soundfile.write(path, noise_bursts(8.0, 3), 16_000, subtype="PCM_16")
    return path


@needs_browser
@pytest.mark.slow
def test_the_page(engine: Engine, recording: Path) -> None:
    asyncio.run(asyncio.wait_for(_look(engine, recording), PATIENCE_S))


async def _look(engine: Engine, recording: Path) -> None:
    assert PROGRAM
    async with serving(engine, token="correct-horse") as server, browser.browser(PROGRAM, recording) as tab:
        await tab.call("Page.navigate", url=f"http://127.0.0.1:{server.port}/#token=correct-horse")
        await tab.until("document.querySelector('#status')?.innerText.startsWith('Connected')")
        assert await tab.evaluate("location.hash") == ""

        server.publish(Final("good morning", WORDS, 0.2, 1.1))
        server.publish(Partial("and here ", "we go", 1.2, 2.0))
        await tab.until("document.querySelector('#room .tentative').innerText === 'we go'")
        assert await tab.evaluate(SHOWN.format("room")) == "good morning"
        assert await tab.evaluate("document.querySelector('#room .committed').textContent") == "and here "
        colours = "['committed', 'tentative'].map(n => getComputedStyle(document.querySelector('#room .' + n)).color)"
        committed, tentative = await tab.evaluate(colours)
        assert committed != tentative
        if picture := os.environ.get("STREAMASR_SCREENSHOT"):
            await tab.screenshot(Path(picture))

        await _buttons(server, tab)
        await _reload(tab)
        await _microphone(server, tab)
        assert not tab.complaints


async def _buttons(server, tab) -> None:  # type: ignore[no-untyped-def]
    size = "parseFloat(getComputedStyle(document.querySelector('.captions')).fontSize)"
    before = await tab.evaluate(size)
    await tab.evaluate("document.getElementById('larger').click()")
    assert await tab.evaluate(size) > before
    await tab.evaluate("document.getElementById('contrast').click()")
    assert await tab.evaluate("document.documentElement.dataset.contrast") == "light"
    await tab.evaluate("document.getElementById('pause').click()")
    server.publish(Final("while paused", (), 2.0, 3.0))
    await asyncio.sleep(0.5)
    assert "while paused" not in await tab.evaluate(SHOWN.format("room"))
    await tab.evaluate("document.getElementById('pause').click()")
    await tab.until(f"{SHOWN.format('room')}.endsWith('while paused')")
    files = await tab.evaluate(
        "import('/transcript.js').then(m => { const t = new m.Transcript();"
        f" t.add({json.dumps({'text': 'good morning', 'start_s': 0.2, 'end_s': 1.1, 'words': []})});"
        " return [t.text(), t.srt(), t.vtt()]; })"
    )
    assert files == [
        "good morning\n",
        "1\n00:00:00,200 --> 00:00:01,100\ngood morning\n\n",
        "WEBVTT\n\n00:00:00.200 --> 00:00:01.100\ngood morning\n\n",
    ]
    assert await tab.evaluate("document.querySelector('#room .finals').getAttribute('aria-live')") == "polite"


async def _reload(tab) -> None:  # type: ignore[no-untyped-def]
    """The page comes back with the last captions, and with the token."""
    await tab.call("Page.reload")
    await tab.until(f"{SHOWN.format('room')}.includes('good morning')")


async def _microphone(server, tab) -> None:  # type: ignore[no-untyped-def]
    await tab.evaluate("document.getElementById('tab-own').click()")
    assert await tab.evaluate("document.getElementById('room').hidden")
    await tab.evaluate("document.getElementById('record').click()")
    await tab.until("document.getElementById('level').value > -60")
    words = await tab.until(SHOWN.format("own"))
    session = next(iter(server.sessions.values()))
    for outlet in list(server.outlets):
        outlet.connection.transport.abort()  # the network breaks
    await tab.until(f"{SHOWN.format('own')}.length > {len(words)}")
    assert server.metrics.resumed._value.get() == 1
    assert session.sound.received > 16_000
    await tab.evaluate("document.getElementById('record').click()")
    for _ in range(100):
        if session.ended:
            break
        await asyncio.sleep(0.1)
    assert session.ended
    told = [json.loads(message.text)["text"] for message in session.journal.after(0) if '"final"' in message.text]
    await tab.until(f"{SHOWN.format('own')}.split(/\\s*\\n\\s*/).length >= {len(told)}")
    assert (await tab.evaluate(SHOWN.format("own"))).split() == " ".join(told).split()
