"""A deeper network that computes what a trained one computes: `train.grow IN.pt CONFIG.toml OUT.pt --new 2 6`.

Recurrent blocks are put in between the old ones; what they add to their input is zero at first, and learnt by
`python -m train.fit CONFIG.toml --start-from OUT.pt`. Numbers are places in the new network, from 0.

Source of the idea: Chen, Goodfellow, Shlens, "Net2Net: Accelerating Learning via Knowledge Transfer", 2016.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from streamasr.blocks import RecurrentBlock
from streamasr.errors import ConfigError, StreamasrError
from streamasr.model import AsrModel
from streamasr.text import Vocab
from train import checkpoint
from train.config import TrainConfig, read_config


def block_places(model: AsrModel) -> list[int]:
    """Which of the network's layers are recurrent blocks."""
    return [place for place, layer in enumerate(model.network.layers) if isinstance(layer, RecurrentBlock)]


def grow(source: Path, config: TrainConfig, target: Path, new: list[int]) -> None:
    """Write a checkpoint to start from, of the network that `config` describes.

    Args:
        new: the recurrent blocks of the new network that the old one lacks.

    Raises:
        ConfigError: the two networks differ in more than these blocks.
    """
    old, _, saved = checkpoint.load_model(source)
    torch.manual_seed(config.run.seed)
    grown = AsrModel(config.features, config.model, len(Vocab()))
    before, after = block_places(old), block_places(grown)
    kept = [place for number, place in enumerate(after) if number not in new]
    if len(kept) != len(before) or not all(0 <= number < len(after) for number in new):
        raise ConfigError(
            f"{len(before)} recurrent blocks and {len(set(new))} new ones do not make {len(after)}",
            "as many as the config has",
            "Correct --new.",
        )
    place_of = {p: p if p < before[0] else p + len(new) for p in range(len(old.network.layers))}  # front and head
    place_of |= zip(before, kept, strict=True)

    def moved(name: str) -> str:
        first, _, rest = name.removeprefix("network.layers.").partition(".")
        return f"network.layers.{place_of[int(first)]}.{rest}" if name.startswith("network.layers.") else name

    for kind in ("model", "average"):
        weights: dict[str, Tensor] = {moved(name): tensor for name, tensor in saved[kind].items()}
        for name, tensor in grown.state_dict().items():
            if any(name.startswith(f"network.layers.{after[number]}.") for number in new):
                weights[name] = torch.zeros_like(tensor) if ".out." in name else tensor
        try:
            grown.load_state_dict(weights)
        except RuntimeError as error:
            first = str(error).strip().splitlines()[1].strip()
            raise ConfigError(f"the networks differ in more than blocks ({first})", "", "Correct the config.") from None
        saved[kind] = weights
    checkpoint.save(target, {**saved, "config": json.dumps(asdict(config))})


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m train.grow", description="Put recurrent blocks into a model.")
    parser.add_argument("source", type=Path, metavar="IN.pt")
    parser.add_argument("config", type=Path, metavar="CONFIG.toml")
    parser.add_argument("target", type=Path, metavar="OUT.pt")
    parser.add_argument("--new", type=int, nargs="+", required=True, metavar="N", help="places of the new blocks")
    arguments = parser.parse_args()
    try:
        grow(arguments.source, read_config(arguments.config), arguments.target, arguments.new)
    except StreamasrError as error:
        print(f"train.grow: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
