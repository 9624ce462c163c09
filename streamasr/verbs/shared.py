"""What several verbs need: the recogniser that the options ask for, and columns of text."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from streamasr import warm
from streamasr.errors import ConfigError
from streamasr.verbs import engine_options

if TYPE_CHECKING:
    from streamasr.engine import Engine

PRECISIONS = {"auto": "int8", "cpu": "int8", "float32": "float32", "int8": "int8"}  # of --compute, on the CPU


def say(line: str) -> None:
    """To standard error, as the program, at once."""
    sys.stderr.write(f"streamasr: {line}\n")
    sys.stderr.flush()


def is_first_start(options: argparse.Namespace) -> bool:
    """Whether the recogniser of these options is still to be compiled here; a GPU needs little of it."""
    return options.compute != "cuda" and warm.is_due()


def recogniser(options: argparse.Namespace, tell: Callable[[str], None] = say) -> Engine:
    """The engine for `--model`, `--lm`, `--hotword`, `--beam`, `--compute` and `engine_options`; imports torch.

    Args:
        tell: called with what takes long at a first start.

    Raises:
        BundleError: a model cannot be loaded. ConfigError: there is no CUDA device, or no voice detector.
        DecoderError: a wrong hotword.
    """
    if is_first_start(options):
        tell(warm.NOTICE)
        warm.compile_all()
    import torch

    from streamasr import bundle
    from streamasr.engine import Engine
    from streamasr.hotwords import hotwords, read_hotwords
    from streamasr.lm import LanguageModel

    device, precision = ("cuda", "float32") if options.compute == "cuda" else ("cpu", PRECISIONS[options.compute])
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--compute cuda was given and there is no CUDA device", "auto", "Leave the option out.")
    torch.set_num_threads(1)  # a frame is too little work to share: waiting for each other costs ten times as much
    model = bundle.load(options.model, device, precision)
    lm_path = None if options.lm == "none" or options.beam == 1 else bundle.find_lm(options.lm)
    lm = LanguageModel.load(lm_path) if lm_path else None
    beam = model.beam_config(options.beam or 0, lm is not None)
    if options.tail:
        beam = dataclasses.replace(beam, tail_s=options.tail)
    phrases = read_hotwords(options.hotwords) if options.hotwords else {}
    phrases |= hotwords(options.hotword)
    endpoint, gate = engine_options.endpoint(options), engine_options.gate(options)
    return Engine(model, beam, endpoint, device=device, lm=lm, hotwords=phrases, gate=gate)


def write(text: str) -> None:
    """To standard output, at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as aligned lines."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "".join(f"{line}\n" for line in lines)
