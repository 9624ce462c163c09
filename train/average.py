"""The mean of several checkpoints' weights: `python -m train.average RUN OUT.pt --last 5`.

Takes those that `run.keep_every_steps` kept. Source: Izmailov et al., "Averaging Weights Leads to Wider Optima and
Better Generalization", 2018.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from streamasr.errors import BundleError, StreamasrError
from train import checkpoint
from train.data import cache_root


def average(paths: list[Path], out: Path) -> Path:
    """Write a checkpoint that can be exported or started from: the last one, with the mean of all weights.

    Raises:
        BundleError: no checkpoint, or checkpoints of different networks.
    """
    if not paths:
        raise BundleError("there is no checkpoint to average", "step_*.pt of a run", "Set run.keep_every_steps.")
    sums: dict[str, dict[str, object]] = {}
    for path in paths:
        last = checkpoint.load(path)
        for kind in ("model", "average"):
            weights = {name: tensor.double() / len(paths) for name, tensor in last[kind].items()}
            before = sums.get(kind, weights)
            if {n: w.shape for n, w in before.items()} != {n: w.shape for n, w in weights.items()}:
                raise BundleError(f"{path} is of another network", f"that of {paths[0]}", "Average one run's.")
            sums[kind] = {n: w + before[n] for n, w in weights.items()} if kind in sums else weights
    means = {kind: {n: w.to(last[kind][n].dtype) for n, w in weights.items()} for kind, weights in sums.items()}
    checkpoint.save(out, {**last, **means})
    return out


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m train.average", description="Average a run's checkpoints.")
    parser.add_argument("run", help="a run's name, or its folder")
    parser.add_argument("out", type=Path)
    parser.add_argument("--last", type=int, default=5, help="how many of them; default: %(default)s")
    arguments = parser.parse_args()
    named = cache_root() / "runs" / arguments.run
    folder = named if named.is_dir() else Path(arguments.run)
    try:
        paths = sorted(folder.glob("step_*.pt"))[-arguments.last :]
        print(f"{average(paths, arguments.out)}: mean of {', '.join(path.stem for path in paths)}")
    except StreamasrError as error:
        print(f"train.average: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
