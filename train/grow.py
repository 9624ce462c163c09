"""A network to go on with, made from a trained one: a deeper one, or its offline sibling.

    python -m train.grow IN.pt CONFIG.toml OUT.pt --new 2 6      # recurrent blocks put in between the old ones
    python -m train.grow IN.pt CONFIG.toml OUT.pt --both-ways    # a streaming model becomes a bidirectional one
    python -m train.fit CONFIG.toml --start-from OUT.pt          # with --offline for the latter

What new blocks add to their input is zero at first, so that the deeper network computes what the other one did. Numbers
are places in the new network, from 0. The offline sibling (`[offline.model]` with `back`, else the streaming one) has
memories besides that run backwards; what comes out of them is zero at first, too.

Source of the idea: Chen, Goodfellow, Shlens, "Net2Net: Accelerating Learning via Knowledge Transfer", 2016.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
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


def both_ways(source: Path, config: TrainConfig, target: Path) -> None:
    """Write a checkpoint to start from, of the offline model that `config` describes, from a streaming one.

    Raises:
        ConfigError: the networks differ in more than the memories that run backwards, or the recurrence is of another
            kind.
    """
    old, _, saved = checkpoint.load_model(source)
    expected = replace(old.config, bidirectional=True, back=config.model.back, dropout=config.model.dropout)
    if old.config.bidirectional or not config.model.back or config.model != expected or old.config.rnn != "gated":
        raise ConfigError(
            f"{config.model} is not the offline sibling of {old.config}",
            "a gated streaming model, and one that differs in `bidirectional` and `back` only",
            "Set [offline.model] back, and context_ahead and lookahead to those of [model].",
        )
    torch.manual_seed(config.run.seed)
    grown = AsrModel(config.features, config.model, len(Vocab())).state_dict()
    channels = old.config.size
    for kind in ("model", "average"):
        weights: dict[str, Tensor] = dict(saved[kind])
        for name in weights:
            wide = grown[name].clone()
            if name.endswith(("gates.weight", "gates.bias")):
                for gate, known in zip(wide.chunk(3), weights[name].chunk(3), strict=True):
                    gate[:channels] = known
            elif name.endswith(".out.weight"):
                wide[:, :channels], wide[:, channels:] = weights[name], 0
            else:
                continue
            weights[name] = wide
        saved[kind] = weights
    checkpoint.save(target, {**saved, "config": json.dumps(asdict(config))})


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m train.grow", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path, metavar="IN.pt")
    parser.add_argument("config", type=Path, metavar="CONFIG.toml")
    parser.add_argument("target", type=Path, metavar="OUT.pt")
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--new", type=int, nargs="+", metavar="N", help="places of the new blocks")
    kind.add_argument("--both-ways", action="store_true", help="CONFIG's offline sibling of a streaming model")
    arguments = parser.parse_args()
    try:
        config = read_config(arguments.config, offline=arguments.both_ways)
        if arguments.both_ways:
            both_ways(arguments.source, config, arguments.target)
        else:
            grow(arguments.source, config, arguments.target, arguments.new)
    except StreamasrError as error:
        print(f"train.grow: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
