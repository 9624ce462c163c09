"""Compile decoder and network for this processor before anybody waits for them: `python -m streamasr.warm`.

numba compiles what is called for the first time, one function after the other, and keeps it on disk. Here, parts that
do not need each other's code are compiled side by side, each in a process of its own; at the end the whole path is gone
through once, so that nothing is left for the first start.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

PACKAGE = Path(__file__).parent
COMPILED = "streamasr.compiled"  # imported by whatever is compiled
FIRST = ("import streamasr.dense_cpu",)  # the others take its code up
THEN = (
    "from streamasr import ctc; ctc.warm()",
    "import streamasr.patches_cpu",
    "import streamasr.chain_cpu",
    "import streamasr.voice_cpu",
)
LAST = ("from streamasr import warm; warm.rehearse()",)  # fails where no model is installed
POLL_S = 0.05
NOTICE = "the first start compiles decoder and network for this processor, for a minute or two"


def rehearse() -> None:
    """The start of the bundled recording through the default recogniser, as a live stream hears it."""
    import numpy as np
    import torch

    from streamasr import bundle
    from streamasr.audio import read_whole
    from streamasr.config import GateConfig
    from streamasr.engine import Engine
    from streamasr.lm import LanguageModel
    from streamasr.voice import Gate, VoiceDetector

    torch.set_num_threads(1)
    path = bundle.find_lm(None)
    lm, gate = LanguageModel.load(path) if path else None, Gate(GateConfig(), VoiceDetector.load())
    engine = Engine(bundle.load(precision="int8"), lm=lm, gate=gate)
    state = engine.start()
    for piece in np.array_split(read_whole(PACKAGE / "data" / "welcome.opus")[: 3 * engine.rate_hz], 12):
        _, state = engine.feed(piece, state)
        engine.peek(state)
    engine.finish(state)


def stamps() -> list[Path]:
    """Where there may be a file that says that this was compiled here: numba's own folder, and one of the user's."""
    digest = hashlib.sha256(sys.version.encode())
    for source in sorted(PACKAGE.glob("*.py")):
        content = source.read_bytes()
        if COMPILED.encode() in content or source.stem == "compiled":
            digest.update(content)
    folders = [Path(os.environ.get("NUMBA_CACHE_DIR") or PACKAGE / "__pycache__")]
    with contextlib.suppress(RuntimeError):  # there are users without a home
        folders.append(Path.home() / ".cache" / "streamasr")
    return [folder / f"warm-{digest.hexdigest()[:12]}" for folder in folders]


def is_due() -> bool:
    """Whether the first start of this version, on this machine, is still to come."""
    return os.environ.get("NUMBA_DISABLE_JIT", "0") == "0" and not any(path.exists() for path in stamps())


def compile_all(processes: int = 0) -> bool:
    """Compile everything, in so many processes (0: as there are processors). False where one of them failed: what is
    missing is compiled when it is wanted, and tells then what is wrong.
    """
    most = processes or os.cpu_count() or 1
    if not _run(FIRST, most) or not _run(THEN, most):
        return False
    rehearsed = _run(LAST, most)
    for path in stamps():
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            break
    return rehearsed


def _run(programs: Sequence[str], most: int) -> bool:
    """Run programs, `most` at a time; whether all succeeded. It waits in no thread that would hold up an exit."""
    waiting, running, succeeded = list(programs), list[subprocess.Popen[bytes]](), True
    while waiting or running:
        while waiting and len(running) < most:
            words = [sys.executable, "-c", waiting.pop(0)]
            running.append(subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        time.sleep(POLL_S)
        succeeded = succeeded and not any(process.poll() for process in running)
        running = [process for process in running if process.returncode is None]
    return succeeded


def main() -> int:
    """Command line."""
    if not compile_all():
        sys.stderr.write("Not all of it could be compiled; the first start does the rest.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
