"""Atomic checkpoints: model, average, optimiser, schedule and the position in the data.

Batches, masks and dropout depend on the seed and the position alone (see `train.fit`), so that no random state is kept.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from streamasr.config import FeatureConfig, ModelConfig, from_mapping
from streamasr.errors import BundleError
from streamasr.model import AsrModel
from streamasr.text import Vocab


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


def load_model(path: Path) -> tuple[AsrModel, dict[str, Any], dict[str, Any]]:
    """The averaged weights of a checkpoint as a model, its configuration, and the checkpoint."""
    saved = load(path)
    config = json.loads(saved["config"])
    features = from_mapping(FeatureConfig, config["features"], str(path))
    model = AsrModel(features, from_mapping(ModelConfig, config["model"], str(path)), len(Vocab()))
    model.load_state_dict(saved["average"])
    return model.eval(), config, saved
