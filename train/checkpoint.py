"""Atomic checkpoints: model, average, optimiser, schedule, random states and the position in the data."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from streamasr.errors import BundleError


def save(path: Path, content: dict[str, Any]) -> None:
    """Write beside, then rename: a killed run leaves the old checkpoint or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.part")
    with partial.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint.

    Raises:
        BundleError: it is missing or damaged.
    """
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise BundleError(f"the checkpoint {path} cannot be read ({error})", "one written by train.fit") from None
    return content
