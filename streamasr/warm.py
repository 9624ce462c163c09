"""Compile decoder and network for this processor before anybody waits for them: `python -m streamasr.warm`.

numba compiles what is called for the first time, one function after the other, and keeps it on disk. Here, parts that
do not need each other's code are compiled side by side, each in a process of its own; at the end the whole path is gone
through once, so that nothing is left for the first start.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
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


def stamp() -> Path:
    """The file that says that all of this was compiled here; numba keeps its own beside it."""
    digest = hashlib.sha256(f"{sys.version} {os.environ.get('NUMBA_CPU_NAME', '')}".encode())
    for source in sorted(PACKAGE.glob("*.py")):
        content = source.read_bytes()
        if COMPILED.encode() in content or source.stem == "compiled":
            digest.update(content)
    named, beside = os.environ.get("NUMBA_CACHE_DIR"), PACKAGE / "__pycache__"
    if named:
        folder = Path(named)
    else:
        folder = (
            beside if os.access(beside if beside.is_dir() else PACKAGE, os.W_OK) else Path.home() / ".cache/streamasr"
        )
    return folder / f"warm-{digest.hexdigest()[:12]}"


def is_due() -> bool:
    """Whether the first start of this version, on this machine, is still to come."""
    return os.environ.get("NUMBA_DISABLE_JIT", "0") == "0" and not stamp().exists()


def compile_all(processes: int = 0) -> bool:
    """Compile everything, in so many processes (0: as there are processors). False where one of them failed: what is
    missing is compiled when it is wanted, and tells then what is wrong.
    """
    with ThreadPoolExecutor(processes or os.cpu_count() or 1) as pool:
        if not all([*pool.map(_succeeds, FIRST)]) or not all([*pool.map(_succeeds, THEN)]):
            return False
        rehearsed = all([*pool.map(_succeeds, LAST)])
    path = stamp()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError:  # then the next start looks for work again, and finds none
        return False
    return rehearsed


def _succeeds(program: str) -> bool:
    words = [sys.executable, "-c", program]
    return subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0


def main() -> int:
    """Command line."""
    if not compile_all():
        sys.stderr.write("Not all of it could be compiled; the first start does the rest.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
