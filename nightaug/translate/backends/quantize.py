"""Eight-bit activations and seven-bit weights for a generator's graph, as QuantizeLinear and DequantizeLinear pairs.

Only what goes into a convolution is rounded: its weights symmetrically, a scale an output channel, and its input to 256
levels between the extremes that calibration saw. Sums, normalisation and skips stay in floating point, where eight bits
would cost most; runtimes fold the pairs into integer convolutions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from nightaug.translate.backends.graph import INPUT
from nightaug.translate.backends.runtimes import onnxruntime_session

#: Levels of an activation.
_LEVELS = 255
#: Largest weight. Seven bits, not eight: CPUs without VNNI add two products in 16 bits, where eight would saturate (28
#: dB in place of 36 was seen), and a file should give the same picture everywhere.
_LARGEST = 63

Image = NDArray[np.float32]


def quantized(model: onnx.ModelProto, images: Iterable[Image]) -> onnx.ModelProto:
    """The graph in int8; the given one is left as it is.

    Args:
        model: from :func:`nightaug.translate.backends.graph.onnx_graph`.
        images: float32 (1, 3, H, W) in [-1, 1] that show which values occur.
    """
    ranges = _ranges(model, images)
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    weights = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, NDArray[Any]] = {}
    skipped = _last_conv(model)
    for node in graph.node:
        if node.name in ranges and node.name != skipped:
            source, kernel = node.input[0], node.input[1]
            low, high = ranges[node.name]
            scale = max(high - low, 1e-8) / _LEVELS
            own: dict[str, Any] = {
                f"{node.name}_scale": np.float32(scale),
                f"{node.name}_zero": np.uint8(round(-low / scale)),
            }
            axis = 1 if node.op_type == "ConvTranspose" else 0
            rounded, scales = _rounded(weights[kernel], axis)
            own |= {f"{kernel}_int8": rounded, f"{kernel}_scale": scales}
            constants |= {name: np.asarray(value) for name, value in own.items()}
            pair = [f"{node.name}_scale", f"{node.name}_zero"]
            steps: list[tuple[str, list[str], dict[str, Any]]] = [
                ("QuantizeLinear", [source, *pair], {}),
                ("DequantizeLinear", [f"{node.name}_q", *pair], {}),
                ("DequantizeLinear", [f"{kernel}_int8", f"{kernel}_scale"], {"axis": axis}),
            ]
            for (kind, inputs, options), output in zip(
                steps, (f"{node.name}_q", f"{node.name}_dq", f"{kernel}_dq"), strict=True
            ):
                nodes.append(helper.make_node(kind, inputs, [output], output, **options))
            node.input[0], node.input[1] = f"{node.name}_dq", f"{kernel}_dq"
            del weights[kernel]
        nodes.append(node)
    kept = [each for each in graph.initializer if each.name in weights]
    for field, values in (
        (graph.node, nodes),
        (graph.initializer, kept + [numpy_helper.from_array(value, name) for name, value in constants.items()]),
    ):
        copies = [type(value).FromString(value.SerializeToString()) for value in values]
        del field[:]  # type: ignore[attr-defined]
        field.extend(copies)  # type: ignore[attr-defined]
    onnx.checker.check_model(made)
    return made


def _convs(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose")]


def _last_conv(model: onnx.ModelProto) -> str:
    """The conv that makes the picture: a hundredth of the work, and every error of it is seen."""
    return str(_convs(model)[-1].name)


def _ranges(model: onnx.ModelProto, images: Iterable[Image]) -> dict[str, tuple[float, float]]:
    """Least and greatest input of each conv over all images, zero among them."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    names = []
    for node in _convs(model):
        for kind in ("ReduceMin", "ReduceMax"):
            name = f"{node.name}_{kind}"
            probe.graph.node.append(helper.make_node(kind, [node.input[0]], [name], name, keepdims=0))
            probe.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, []))
            names.append(name)
    session = onnxruntime_session(probe.SerializeToString())
    found = np.array([[float(value) for value in session.run(names, {INPUT: image})] for image in images])
    assert len(found), "no images to calibrate on"
    low, high = np.minimum(found[:, ::2].min(0), 0), np.maximum(found[:, 1::2].max(0), 0)
    return {str(node.name): (float(a), float(b)) for node, a, b in zip(_convs(model), low, high, strict=True)}


def _rounded(weight: NDArray[np.float32], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Weights in -63..63 and a scale for each output channel."""
    others = tuple(each for each in range(weight.ndim) if each != axis)
    scales = np.maximum(np.abs(weight).max(others), 1e-8).astype(np.float32) / np.float32(_LARGEST)
    shape = [-1 if each == axis else 1 for each in range(weight.ndim)]
    return np.clip(np.round(weight / scales.reshape(shape)), -_LARGEST, _LARGEST).astype(np.int8), scales
