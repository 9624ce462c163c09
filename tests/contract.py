"""What every layer must do: the same in chunks as in one piece, and the same in a batch as alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from streamasr.layers import Layer, State


def stream(layer: Layer, x: Tensor, cuts: Sequence[int]) -> Tensor:
    """Feed x (B, ..., T) in chunks that end at `cuts`, then flush."""
    state, outputs = layer.init_state(x.shape[0]), []
    for part in torch.tensor_split(x, sorted(cuts), dim=-1):
        y, state = layer.step(part, state)
        outputs.append(y)
    tail = layer.flush(state)
    if tail is not None:
        outputs.append(tail)
    return torch.cat(outputs, -1)


def tensors(state: State) -> list[Tensor]:
    """All tensors of a nested state."""
    return [state] if isinstance(state, Tensor) else [t for part in state for t in tensors(part)]


@torch.no_grad()
def check_layer(layer: Layer, x: Tensor, cuts: Sequence[int], tolerance: float = 1e-5, rounding: float = 0.0) -> None:
    """Raise where the layer breaks the contract on x (B, ..., T), T >= 2.

    `rounding`: what its numbers may differ by in a stream, where they are rounded, from those of whole utterances;
    whatever the chunks, they are rounded alike.
    """
    layer.eval()
    frames, whole = x.shape[-1], torch.full((x.shape[0],), x.shape[-1])
    expected = layer(x, whole)
    assert expected.shape[-1] == int(layer.output_lengths(whole)[0])
    streamed, near = stream(layer, x, cuts), max(tolerance, rounding)
    torch.testing.assert_close(streamed, expected, atol=near, rtol=near)
    torch.testing.assert_close(streamed, stream(layer, x, []), atol=tolerance, rtol=tolerance)

    # Its last frames may come together with the end.
    state = layer.init_state(x.shape[0])
    _, state = layer.step(x[..., : frames // 2], state)
    for last in (x[..., frames // 2 :], x[..., frames // 2 : frames // 2 + 1], x[..., :0]):
        y, held = layer.step(last, state)
        tail = layer.flush(held)
        ended = torch.cat([y, tail], -1) if tail is not None else y
        torch.testing.assert_close(layer.end(last, state), ended, atol=tolerance, rtol=tolerance)

    # The state is never changed in place, and flushing does not spoil it.
    state = layer.init_state(x.shape[0])
    _, state = layer.step(x[..., : frames // 2], state)
    before = [t.clone() for t in tensors(state)]
    layer.flush(state)
    layer.end(x[..., frames // 2 :], state)
    layer.step(x[..., frames // 2 :], state)
    for old, now in zip(before, tensors(state), strict=True):
        torch.testing.assert_close(now, old, atol=0, rtol=0)

    # A short utterance in a long batch gives the same outputs as alone, whatever stands beyond its end.
    short = frames // 2 + 1
    lengths = torch.tensor([frames] * (x.shape[0] - 1) + [short])
    padded = layer(x, lengths)
    alone = layer(x[-1:, ..., :short], torch.tensor([short]))
    count = int(layer.output_lengths(torch.tensor([short]))[0])
    torch.testing.assert_close(padded[-1:, ..., :count], alone, atol=tolerance, rtol=tolerance)

    # Frame t depends on nothing beyond `right` frames after its own.
    changed = x.clone()
    last = expected.shape[-1] // 2
    changed[..., last * layer.stride + layer.right + 1 :] += 1.0
    torch.testing.assert_close(
        layer(changed, whole)[..., : last + 1], expected[..., : last + 1], atol=tolerance, rtol=0
    )
