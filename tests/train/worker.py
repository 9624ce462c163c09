"""One of several training processes: `python -m tests.train.worker CORPUS RUNS NAME [die]`.

With "die", the second process ends without a word after its third step, on the first attempt only.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.train.corpora import tiny
from train import distributed, fit


def main() -> None:
    corpus, runs, name, *options = sys.argv[1:]
    if "die" in options and distributed.rank() == 1 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        real, calls = distributed.sum_gradients, []

        def dying(model: object) -> None:
            calls.append(1)
            if len(calls) == 4:
                os._exit(9)
            real(model)  # type: ignore[arg-type]

        distributed.sum_gradients = dying  # type: ignore[assignment]
    fit.fit(tiny(Path(corpus), name=name, save_every_s=0.0), runs=Path(runs))
    distributed.leave()
    threads = [(thread / "comm").read_text().strip() for thread in Path("/proc/self/task").iterdir()]
    if any("gloo" in thread for thread in threads):
        sys.exit(f"threads left behind: {threads}")


if __name__ == "__main__":
    main()
