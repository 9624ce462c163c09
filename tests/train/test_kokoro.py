"""Kokoro's graph rewritten: each kind of node gives what the one it replaces gave."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from train.kokoro import GENERATOR, HOP, WINDOW, Graph, wave, with_convolutions, with_floats, with_polynomials

RNG = np.random.default_rng(0)


def model_of(
    nodes: Iterable[onnx.NodeProto], shape: list[int | str], constants: dict[str, np.ndarray], output: str = "y"
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    ops = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=ops, ir_version=9)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def rewritten(model: onnx.ModelProto, replace: object) -> onnx.ModelProto:
    graph = Graph(model)
    graph.rewrite(replace)  # type: ignore[arg-type]
    del model.graph.initializer[:]
    model.graph.initializer.extend(graph.constants.values())
    return model


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("kind", ["Conv", "MatMul", "LSTM"])
def test_layers_of_bytes_become_layers_of_floats(kind: str, tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    if kind == "Conv":
        nodes = [helper.make_node("Conv", ["x", "w", "b"], ["y"], kernel_shape=[3], pads=[1, 1])]
        shape, constants = [1, 4, 30], {"w": normal(6, 4, 3), "b": normal(6)}
    elif kind == "MatMul":
        nodes, shape, constants = [helper.make_node("MatMul", ["x", "w"], ["y"])], [1, 30, 8], {"w": normal(8, 5)}
    else:
        nodes = [helper.make_node("LSTM", ["x", "w", "r", "b"], ["y"], hidden_size=4)]
        shape, constants = [30, 1, 8], {"w": normal(1, 16, 8), "r": normal(1, 16, 4), "b": normal(1, 32)}
    plain, packed = tmp_path / "plain.onnx", tmp_path / "packed.onnx"
    onnx.save(model_of(nodes, shape, constants), plain)
    quantize_dynamic(plain, packed, op_types_to_quantize=[kind], weight_type=QuantType.QUInt8)
    model = onnx.load(packed)
    kinds = {node.op_type for node in model.graph.node}
    assert kinds & {"ConvInteger", "MatMulInteger", "DynamicQuantizeLSTM"}
    x = normal(*shape)
    wanted = run(onnx.load(plain), x)
    found = run(rewritten(model, with_floats), x)
    assert not {node.op_type for node in model.graph.node} & {"ConvInteger", "MatMulInteger", "DynamicQuantizeLSTM"}
    assert np.abs(found - wanted).max() < 0.03 * max(1.0, np.abs(wanted).max())


def test_squares_of_sines_become_polynomials() -> None:
    names = [f"{GENERATOR}resblocks.0/{name}_output_0" for name in ("Sin", "Pow")]
    nodes = [helper.make_node("Sin", ["x"], names[:1]), helper.make_node("Pow", [names[0], "two"], names[1:])]
    model = model_of(nodes, [1, "n"], {"two": np.float32(2)}, names[1])
    x = np.linspace(-30, 30, 5001, dtype=np.float32)[None]
    rewritten(model, with_polynomials)
    assert "Sin" not in {node.op_type for node in model.graph.node}
    assert np.abs(run(model, x) - np.sin(x) ** 2).max() < 2e-4


def test_transposed_convolutions_become_convolutions() -> None:
    name = f"{GENERATOR}ups.0/ConvTranspose_output_0"
    node = helper.make_node("ConvTranspose", ["x", "w", "b"], [name], strides=[6], kernel_shape=[12], pads=[3, 3])
    constants = {"w": normal(4, 3, 12), "b": normal(3)}
    x = normal(1, 4, 17)
    wanted = run(model_of([node], [1, 4, 17], constants, name), x)
    model = rewritten(model_of([node], [1, 4, 17], constants, name), with_convolutions)
    assert "ConvTranspose" not in {node.op_type for node in model.graph.node}
    assert np.allclose(run(model, x), wanted, atol=1e-4)


def test_a_part_of_a_graph_is_cut_out() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Mul", ["a", "two"], ["b"])]
    nodes.append(helper.make_node("Neg", ["b"], ["y"]))
    graph = Graph(model_of(nodes, [1, 4], {"two": np.float32(2)}))
    part = graph.part({"x": None}, ["b"])
    assert [node.op_type for node in part.graph.node] == ["Relu", "Mul"]
    assert run(part, np.array([[-1, 0, 1, 2]], np.float32)).tolist() == [[0, 0, 2, 4]]


def test_spectrum_becomes_samples() -> None:
    frames, basis = 9, normal(22, WINDOW)
    spectrum = normal(22, frames)
    window = np.array([sum(1.0 for f in range(40) if 0 <= n - HOP * f < WINDOW) for n in range(200)], np.float32)
    size, angle = np.exp(spectrum[:11]), np.sin(spectrum[11:])
    rows = np.concatenate([size * np.cos(angle), size * np.sin(angle)])
    length = HOP * (frames - 1) + WINDOW
    total, covered = np.zeros(length), np.zeros(length)
    for frame in range(frames):
        total[HOP * frame : HOP * frame + WINDOW] += rows[:, frame] @ basis
        covered[HOP * frame : HOP * frame + WINDOW] += 1
    wanted = (total / covered)[WINDOW // 2 : -WINDOW // 2]
    assert np.allclose(wave(spectrum, basis, window), wanted, rtol=1e-3, atol=1e-3)
