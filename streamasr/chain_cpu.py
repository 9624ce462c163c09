"""Recurrent blocks in a row, compiled: see `chain`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamasr.compiled import loops
from streamasr.dense_cpu import KINDS, recurrent_block

Floats = NDArray[np.float32]
STACKED = tuple(kind.replace("[", "[:,", 1) for kind in KINDS)  # a matrix of each block


@loops(
    [
        "void(float32[:,:,::1], float32[:,:,::1], int64, int64, int64, float32[:,::1], float32[:,::1], float32[::1],"
        f" float32[:,:,::1], float32[:,::1], {kind}, float32[:,::1], float32[:,::1], {kind}, float32[:,::1],"
        " float32[:,::1], float32[:,:,::1], float32[:,:,::1])"
        for kind in STACKED
    ]
)
def chain(
    x: Floats,
    rows: Floats,
    ahead: int,
    steady: int,
    ended: int,
    weight: Floats,
    bias: Floats,
    epsilon: Floats,
    kernel: Floats,
    offset: Floats,
    gates: NDArray[Any],
    gates_scale: Floats,
    gates_bias: Floats,
    out: NDArray[Any],
    out_scale: Floats,
    out_bias: Floats,
    after: Floats,
    y: Floats,
) -> None:
    """A chunk through all blocks.

    Args:
        x: (T, B, C). `rows`: (B, R, C) what the blocks remember, as `chain.ChainState` says.
        ahead: blocks that look a frame ahead, the first ones; `steady` of them have heard a frame before.
        ended: 1 where the stream ends with this chunk.
        weight to out_bias: as in `dense_cpu.recurrent_block`, for each block.
        after: (B, R', C), written: what they remember then. `y`: (T', B, C), written.
    """
    blocks, taps, channels = kernel.shape
    batch = x.shape[1]
    frames, at, to = x, 0, 0
    for index in range(blocks):
        looks = 1 if index < ahead else 0
        waiting = 1 if index < min(ahead, steady) else 0
        known = taps - 1 - looks + waiting
        held, skipped = np.empty((known, batch, channels), np.float32), np.empty((waiting, batch, channels), np.float32)
        memory = np.empty((batch, channels), np.float32)
        for b in range(batch):
            for t in range(known):
                held[t, b] = rows[b, at + t]
            for t in range(waiting):
                skipped[t, b] = rows[b, at + known + t]
            memory[b] = rows[b, at + known + waiting]
        at += known + waiting + 1
        count = frames.shape[0]
        zeros = looks * ended
        normed = np.empty((known + count + zeros, batch, channels), np.float32)
        normed[known + count :] = 0
        given = max(0, len(normed) - taps + 1)
        found = y if index == blocks - 1 else np.empty((given, batch, channels), np.float32)
        recurrent_block(
            frames,
            held,
            skipped,
            memory,
            weight[index],
            bias[index],
            epsilon[index],
            kernel[index],
            offset[index],
            gates[index],
            gates_scale[index],
            gates_bias[index],
            out[index],
            out_scale[index],
            out_bias[index],
            normed,
            found,
        )
        if not ended:
            for b in range(batch):
                for t in range(given, known + count):
                    after[b, to + t - given] = normed[t, b]
                place = to + known + count - given
                for t in range(given, waiting + count):
                    after[b, place + t - given] = skipped[t, b] if t < waiting else frames[t - waiting, b]
                after[b, place + waiting + count - given] = memory[b]
            to += known + waiting + 2 * (count - given) + 1
        frames = found
