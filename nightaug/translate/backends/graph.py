"""A generator as an ONNX graph, written module by module.

The networks are chains of a dozen kinds of modules, so their graph is written down here rather than traced: the same
weights give the same bytes under every version of torch, sides stay free without a guess, and no compiler is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from nightaug.cyclegan.blocked import BLOCK, block_weights, pays
from nightaug.cyclegan.networks import ResidualBlock, ResnetGenerator
from nightaug.cyclegan.student import Generator, SeparableBlock, StudentGenerator

#: Version of the operators; every runtime of the last years knows it.
OPSET = 18
#: Version of the file format that came with it.
IR_VERSION = 8
#: Names of the graph's ends: float32 (1, 3, height, width) in [-1, 1].
INPUT, OUTPUT = "image", "translated"


class _Writer:
    """Nodes and constants of a graph in the making; every method returns the name of its result."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, value: NDArray[Any]) -> str:
        self.constants[name] = numpy_helper.from_array(value, name)
        return name

    def weights(self, value: Tensor) -> str:
        return self.constant(f"w{len(self.constants)}", value.detach().float().cpu().numpy())

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name, **attributes))
        return name

    # -- kinds of modules ------------------------------------------------------------------------------------

    def module(self, module: nn.Module, x: str) -> str:
        """The graph of a module applied to ``x``."""
        if isinstance(module, (ResidualBlock, SeparableBlock)):
            return self.node("Add", x, self.module(module.conv_block, x))
        if isinstance(module, ResnetGenerator):
            out = self.module(module.model, x)
            return out if module.residual is None else self._added(x, out)
        if isinstance(module, StudentGenerator):
            return self._student(module, x)
        if isinstance(module, nn.Sequential):
            for each in module:
                x = self.module(each, x)
            return x
        kind = next((kind for kind in self._kinds if isinstance(module, kind)), None)
        assert kind is not None, f"no ONNX for {type(module).__name__}"
        return self._kinds[kind](self, module, x)

    def _added(self, x: str, change: str) -> str:
        ends = [self.constant(name, np.array(value, np.float32)) for name, value in (("black", -1), ("white", 1))]
        return self.node("Clip", self.node("Add", x, change), *ends)

    def _student(self, network: StudentGenerator, x: str) -> str:
        maps = [self.module(network.stem, x)]
        for step in network.down:
            maps.append(self.module(step, maps[-1]))
        x = self.module(network.trunk, maps.pop())
        for step in network.up:
            x = self.node("Relu", self.node("Add", self.module(step, x), maps.pop()))
        return self.module(network.head, x)

    def _conv(self, conv: Any, x: str) -> str:
        if pays(conv):
            weight, bias = block_weights(conv)
            inputs = [x, self.weights(weight)] + ([] if bias is None else [self.weights(bias)])
            blocks = self.node("Conv", *inputs, strides=[BLOCK, BLOCK])
            return self.node("DepthToSpace", blocks, blocksize=BLOCK, mode="CRD")
        transposed = isinstance(conv, nn.ConvTranspose2d)
        inputs = [x, self.weights(conv.weight)] + ([] if conv.bias is None else [self.weights(conv.bias)])
        options: dict[str, Any] = {"strides": list(conv.stride), "pads": list(conv.padding) * 2, "group": conv.groups}
        if transposed:
            options["output_padding"] = list(conv.output_padding)
        return self.node("ConvTranspose" if transposed else "Conv", *inputs, **options)

    def _norm(self, norm: Any, x: str) -> str:
        channels = norm.num_features
        scale, shift = (
            self.constant(f"{name}{channels}", np.full(channels, value, np.float32))
            for name, value in (("ones", 1), ("zeros", 0))
        )
        return self.node("InstanceNormalization", x, scale, shift, epsilon=norm.eps)

    def _pad(self, pad: Any, x: str) -> str:
        left, right, top, bottom = pad.padding
        sides = np.array([0, 0, top, left, 0, 0, bottom, right], np.int64)
        return self.node("Pad", x, self.constant(f"pad{left}", sides), mode="reflect")

    def _upsample(self, step: Any, x: str) -> str:
        assert step.mode == "bilinear"
        scales = self.constant("twice", np.array([1, 1, step.scale_factor, step.scale_factor], np.float32))
        return self.node("Resize", x, "", scales, mode="linear", coordinate_transformation_mode="half_pixel")

    _kinds: dict[type[nn.Module], Callable[[_Writer, nn.Module, str], str]] = {  # noqa: RUF012 (never changed)
        nn.Conv2d: _conv,
        nn.ConvTranspose2d: _conv,
        nn.InstanceNorm2d: _norm,
        nn.ReflectionPad2d: _pad,
        nn.Upsample: _upsample,
        nn.ReLU: lambda self, module, x: self.node("Relu", x),
        nn.Tanh: lambda self, module, x: self.node("Tanh", x),
    }


def onnx_graph(network: Generator) -> onnx.ModelProto:
    """The generator as an ONNX model in fp32.

    Its one input and one output are float32 (1, 3, height, width) in [-1, 1]; height and width are free, multiples of
    ``network.multiple``.
    """
    writer = _Writer()
    last = writer.module(network, INPUT)
    writer.nodes[-1].output[0] = OUTPUT
    assert writer.nodes[-1].name == last
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, "height", "width"]) for name in (INPUT, OUTPUT)
    ]
    graph = helper.make_graph(writer.nodes, "translator", ends[:1], ends[1:], list(writer.constants.values()))
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="nightaug"
    )
    onnx.checker.check_model(model)
    return model
