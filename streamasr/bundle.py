"""Models on disk: `<name>/{config.json, tokens.txt, weights.safetensors, CARD.md, SHA256SUMS}`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamasr import checksums
from streamasr.config import (
    DECODINGS,
    BeamConfig,
    ConfidenceConfig,
    FeatureConfig,
    ModelConfig,
    from_mapping,
    to_mapping,
)
from streamasr.errors import BundleError, ChecksumError, ConfigError
from streamasr.text import Vocab

if TYPE_CHECKING:
    from streamasr.model import AsrModel

DEFAULT_NAME = "small"
DEFAULT_LM = "english-lm"
FORMAT = 1
KEYS = ("format", "kind", "features", "model", "facts", "beam", "confidence")
CHECKED = ("config.json", "tokens.txt", "weights.safetensors")


@dataclass(frozen=True)
class Bundle:
    """A model ready to run.

    Attributes:
        facts: what config.json tells of its training.
        beam: the decoder's numbers, tuned for this model.
        confidence: the calibrated weights of confidences, for each of `config.DECODINGS` that was calibrated.
    """

    name: str
    path: Path
    model: AsrModel
    feature_config: FeatureConfig
    model_config: ModelConfig
    vocab: Vocab
    facts: Mapping[str, Any]
    beam: BeamConfig = field(default_factory=BeamConfig)
    confidence: Mapping[str, ConfidenceConfig] = field(default_factory=dict)

    def beam_config(self, width: int = 0, lm: bool = True) -> BeamConfig:
        """The decoder's numbers for a width (0: the model's own), with or without a language model."""
        beam = replace(self.beam, width=width or self.beam.width)
        calibrated = self.confidence.get("greedy" if beam.width == 1 else "language_model" if lm else "letters")
        if calibrated is None:
            return beam
        return replace(
            beam,
            confidence_bias=calibrated.bias,
            confidence_agreed=calibrated.agreed,
            confidence_peak=calibrated.peak,
        )


@dataclass(frozen=True)
class Summary:
    """What can be said of a bundle without loading its weights."""

    name: str
    path: Path
    streaming: bool
    lookahead_ms: float
    parameters: int
    megabytes: float
    facts: Mapping[str, Any]


def folders() -> list[Path]:
    """Where bundles are looked for, in order: $STREAMASR_MODELS, the installed package, the repository."""
    here = Path(__file__).resolve().parent
    named = [Path(p) for p in os.environ.get("STREAMASR_MODELS", "").split(os.pathsep) if p]
    return [*named, here / "_models", here.parent / "models"]


def find(name_or_path: str | None) -> Path:
    """The directory of a bundle, by name or path; None means the default.

    Raises:
        BundleError: there is none; the known ones are listed.
    """
    wanted = name_or_path or DEFAULT_NAME
    for candidate in [*(folder / wanted for folder in folders()), Path(wanted)]:
        if (candidate / "config.json").is_file():
            return candidate
    known = ", ".join(sorted({summary.name for summary in available()})) or "none is installed"
    raise BundleError(f"there is no model {wanted!r}", f"one of: {known}", "Give a name or a directory with --model.")


def find_lm(name_or_path: str | None) -> Path | None:
    """The folder or file of a language model, by name or path; None means the default, if it is installed.

    Raises:
        BundleError: a name or path was given and nothing is there.
    """
    wanted = name_or_path or DEFAULT_LM
    for candidate in [*(folder / wanted for folder in folders()), Path(wanted)]:
        if (candidate / "lm.safetensors").is_file() or (name_or_path and candidate.is_file()):
            return candidate
    if name_or_path is None:
        return None
    known = sorted({path.parent.name for folder in folders() for path in folder.glob("*/lm.safetensors")})
    raise BundleError(
        f"there is no language model {wanted!r}",
        f"an ARPA or KenLM file, or one of: {', '.join(known) or 'none is installed'}",
        "Correct --lm; --lm none decodes without one.",
    )


def available() -> list[Summary]:
    """Every acoustic model that can be found, the first of each name."""
    found: dict[str, Summary] = {}
    for folder in folders():
        for path in sorted(folder.glob("*/config.json")):
            content = read_config(path)
            if content.get("kind") == "acoustic" and path.parent.name not in found:
                facts = content.get("facts", {})
                found[path.parent.name] = Summary(
                    path.parent.name,
                    path.parent,
                    not content.get("model", {}).get("bidirectional", False),
                    float(facts.get("lookahead_ms", 0)),
                    int(facts.get("parameters", 0)),
                    sum(f.stat().st_size for f in path.parent.iterdir() if f.is_file()) / 1e6,
                    facts,
                )
    return list(found.values())


def read_config(path: Path) -> dict[str, Any]:
    """The content of a config.json, unchecked.

    Raises:
        BundleError: it cannot be read.
    """
    path = path / "config.json" if path.is_dir() else path
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} cannot be read ({error})", "a JSON object", "Install the model again.") from None
    if not isinstance(content, dict):
        raise BundleError(f"{path} holds a {type(content).__name__}", "a JSON object", "Install the model again.")
    return content


def verify(path: Path, files: tuple[str, ...] = CHECKED) -> None:
    """Compare the files of a bundle with SHA256SUMS.

    Raises:
        ChecksumError: a sum that differs; BundleError: a file that is missing.
    """
    try:
        sums = checksums.listed(path)
    except OSError:
        raise BundleError(f"{path} has no SHA256SUMS", "a released model", "Install the model again.") from None
    for name in files:
        if not (path / name).is_file():
            raise BundleError(f"{path} has no {name}", ", ".join(files), "Install the model again.")
        if (got := checksums.digest((path / name).read_bytes())) != sums.get(name):
            raise ChecksumError(
                f"{path / name} has the checksum {got[:12]}…",
                f"{sums.get(name, 'none listed')[:12]}…",
                "The file is damaged or was changed; install the model again.",
            )


def load(name_or_path: str | None = None, device: str = "cpu", precision: str = "float32") -> Bundle:
    """Load a model by name or directory; None means the default.

    `precision` is that of its large matrices on the CPU: float32, or int8 (bytes, with a scale for each output). On
    a GPU the network works in half precision.

    Raises:
        BundleError: not found or not readable. ChecksumError: damaged weights. ConfigError: an unknown key.
    """
    path = find(name_or_path)
    verify(path)
    content = read_config(path / "config.json")
    if content.get("format") != FORMAT:
        raise BundleError(
            f"{path / 'config.json'} has the format {content.get('format')!r}", f"format {FORMAT}", "Update streamasr."
        )
    unknown = set(content) - set(KEYS)
    if unknown:
        raise ConfigError(
            f"{path / 'config.json'} has the unknown key {sorted(unknown)[0]!r}", ", ".join(KEYS), "Remove the key."
        )
    features = from_mapping(FeatureConfig, content.get("features", {}), f"{path / 'config.json'} [features]")
    config = from_mapping(ModelConfig, content.get("model", {}), f"{path / 'config.json'} [model]")
    beam = from_mapping(BeamConfig, content.get("beam", {}), f"{path / 'config.json'} [beam]")
    confidence = _confidence(content.get("confidence", {}), f"{path / 'config.json'} [confidence]")
    vocab = Vocab(tuple((path / "tokens.txt").read_text(encoding="utf-8").split("\n")[:-1]))

    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from streamasr.model import AsrModel

    model = AsrModel(features, config, len(vocab))
    try:
        weights = {name: tensor.float() for name, tensor in load_file(path / "weights.safetensors").items()}
        model.load_state_dict(weights)
    except (SafetensorError, RuntimeError, OSError) as error:
        first = str(error).strip().splitlines()[-1].strip()
        raise BundleError(
            f"{path / 'weights.safetensors'} does not fit its config ({first})", "", "Install the model again."
        ) from None
    model = model.to(device).eval().requires_grad_(False)
    if model.features.window.device.type == "cpu":
        model.prepare(precision)
    else:
        model.capture()
    return Bundle(path.name, path, model, features, config, vocab, content.get("facts", {}), beam, confidence)


def _confidence(tables: Any, where: str) -> dict[str, ConfidenceConfig]:
    if not isinstance(tables, dict) or set(tables) - set(DECODINGS):
        got = sorted(set(tables) - set(DECODINGS))[0] if isinstance(tables, dict) else tables
        raise ConfigError(f"{where} has {got!r}", f"tables of {', '.join(DECODINGS)}", "Calibrate the model again.")
    return {name: from_mapping(ConfidenceConfig, table, f"{where} {name}") for name, table in tables.items()}


def amend(path: Path, **tables: Mapping[str, Any]) -> None:
    """Put tables of config.json, such as `beam` and `confidence`, in the place of those of a bundle on disk.

    Raises:
        BundleError: config.json cannot be read. ChecksumError: the bundle is damaged.
    """
    verify(path)
    content = {**read_config(path / "config.json"), **tables}
    checksums.write_listed(path, {"config.json": (json.dumps(content, indent=2) + "\n").encode()})


def save(
    path: Path,
    model: AsrModel,
    features: FeatureConfig,
    config: ModelConfig,
    vocab: Vocab,
    facts: Mapping[str, Any],
    card: str,
    **tables: Mapping[str, Any],
) -> None:
    """Write a bundle: matrices in float16, the rest in float32; `tables`: `beam` and `confidence` of config.json."""
    import torch
    from safetensors.torch import save

    weights = {
        name: tensor.detach().to("cpu", torch.float16 if tensor.dim() > 1 else torch.float32).contiguous()
        for name, tensor in model.state_dict().items()
    }
    content = {
        "format": FORMAT,
        "kind": "acoustic",
        "features": to_mapping(features),
        "model": to_mapping(config),
        "facts": {"parameters": model.parameter_count, "lookahead_ms": model.lookahead_ms, **facts},
        **{name: dict(table) for name, table in tables.items() if table},
    }
    files = {
        "config.json": (json.dumps(content, indent=2) + "\n").encode(),
        "tokens.txt": "".join(token + "\n" for token in vocab.tokens).encode(),
        "weights.safetensors": save(weights),
    }
    checksums.write_listed(path, files)
    (path / "CARD.md").write_text(card, encoding="utf-8")
