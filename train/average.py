"""The mean of several networks' weights: of one run's checkpoints, or of a run and of what was trained before it.

    python -m train.average RUN OUT.pt --last 5                                    # the kept checkpoints of a run
    python -m train.average RUN OUT.pt --beside models/small=0.5                   # the run's latest, and a release
    python -m train.average RUN OUT.pt --beside a.safetensors=0.40 --beside b.pt=0.15    # the run counts 0.45

The first takes what `run.keep_every_steps` kept. Networks that are averaged must have one beginning: the run was begun
from the weights beside it, or both from the same ones.

Sources: Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", 2018; Wortsman et al.,
"Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing inference time",
2022.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from streamasr.errors import BundleError, ConfigError, StreamasrError
from train import checkpoint
from train.data import cache_root

KINDS = ("model", "average")


def read(path: Path) -> dict[str, Any]:
    """A checkpoint, or the weights of a released model (its folder, or the file) in the form of one.

    Raises:
        BundleError: it is missing or damaged.
    """
    weights = path / "weights.safetensors" if path.is_dir() else path
    if weights.suffix != ".safetensors":
        return checkpoint.load(weights)
    try:
        return dict.fromkeys(KINDS, load_file(weights))
    except (OSError, SafetensorError) as error:
        raise BundleError(f"{weights} cannot be read ({error})", "weights of a released model") from None


def average(paths: Sequence[Path], out: Path, shares: Sequence[float] | None = None) -> Path:
    """Write a checkpoint that can be exported or started from: the last one, with the mean of all weights.

    Args:
        shares: of each in the mean; they add up to one. Equal by default.

    Raises:
        BundleError: no checkpoint, or checkpoints of different networks.
    """
    if not paths:
        raise BundleError("there is no checkpoint to average", "step_*.pt of a run", "Set run.keep_every_steps.")
    sums: dict[str, dict[str, Any]] = {}
    for path, share in zip(paths, shares or [1 / len(paths)] * len(paths), strict=True):
        last = read(path)
        for kind in KINDS:
            weights = {name: tensor.double() * share for name, tensor in last[kind].items()}
            before = sums.get(kind, weights)
            if {n: w.shape for n, w in before.items()} != {n: w.shape for n, w in weights.items()}:
                raise BundleError(
                    f"{path} is of another network", f"that of {paths[0]}", "Average networks of one kind."
                )
            sums[kind] = {n: w + before[n] for n, w in weights.items()} if kind in sums else weights
    means = {kind: {n: w.to(last[kind][n].dtype) for n, w in weights.items()} for kind, weights in sums.items()}
    checkpoint.save(out, {**last, **means})
    return out


def parts(beside: Sequence[str], latest: Path) -> tuple[list[Path], list[float]]:
    """What `--beside` names, the run's latest checkpoint last, and the share of each.

    Raises:
        ConfigError: no number, or shares that leave nothing to the run.
    """
    paths, shares = [], []
    for argument in beside:
        path, _, share = argument.rpartition("=")
        try:
            shares.append(float(share))
        except ValueError:
            raise ConfigError(
                f"--beside {argument}", "PATH=SHARE, for example models/small=0.5", "Correct it."
            ) from None
        paths.append(Path(path))
    left = 1 - sum(shares)
    if min([left, *shares]) <= 0:
        raise ConfigError(f"the shares are {', '.join(map(str, shares))}", "positive numbers, less than 1 in all")
    return [*paths, latest], [*shares, left]


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m train.average", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", help="a run's name, or its folder")
    parser.add_argument("out", type=Path)
    parser.add_argument("--last", type=int, default=5, help="how many kept checkpoints; default: %(default)s")
    parser.add_argument(
        "--beside",
        action="append",
        metavar="PATH=SHARE",
        help="a checkpoint, or a released model, and its share; the rest is the run's latest checkpoint; repeat",
    )
    options = parser.parse_args(arguments)
    named = cache_root() / "runs" / options.run
    folder = named if named.is_dir() else Path(options.run)
    try:
        if options.beside:
            paths, shares = parts(options.beside, folder / "latest.pt")
        else:
            paths = sorted(folder.glob("step_*.pt"))[-options.last :]
            shares = [1 / max(1, len(paths))] * len(paths)
        average(paths, options.out, shares)
    except StreamasrError as error:
        print(f"train.average: {error}", file=sys.stderr)
        return 1
    told = ", ".join(f"{path.stem} ({share:.2f})" for path, share in zip(paths, shares, strict=True))
    print(f"{options.out}: mean of {told}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
