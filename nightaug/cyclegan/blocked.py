"""The conv that makes the image, computed for blocks of 2 x 2 pixels at once.

A 7x7 conv from 64 channels to 3 leaves most of a CPU's vector lanes empty: they are filled by output channels. The four
pixels of a block are twelve output channels of one 8x8 conv of stride 2, whose weights are the old ones shifted by a
pixel and surrounded by zeros: a third more products, in a third of the time, and the same sums.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nightaug.cyclegan.student import Generator

#: Side of a block, pixels. Larger ones fill more lanes, but with zeros.
BLOCK = 2
#: From this number of output channels on, a conv fills the lanes by itself.
_FULL = 8
#: Smaller kernels become too much larger by the one pixel: 3x3 to 4x4 nearly doubles the products.
_LEAST_KERNEL = 5


class BlockWeights(NamedTuple):
    """``weight`` (O * 4, C, k + 1, k + 1) and ``bias`` (O * 4,) or None; channel ``4 o + 2 y + x`` is output ``o`` of
    the pixel in row y and column x of its block, as ``torch.nn.PixelShuffle`` and ONNX's DepthToSpace (CRD) read it."""

    weight: Tensor
    bias: Tensor | None


def pays(conv: nn.Module) -> bool:
    """Whether a conv has few enough output channels, a large enough kernel, and no stride, padding or groups."""
    return (
        type(conv) is nn.Conv2d
        and conv.out_channels < _FULL
        and min(conv.kernel_size) >= _LEAST_KERNEL
        and (conv.stride, conv.dilation, conv.groups) == ((1, 1), (1, 1), 1)
        and conv.padding == (0, 0)
    )


@torch.no_grad()
def block_weights(conv: nn.Conv2d) -> BlockWeights:
    """The weights of the stride-2 conv that does what ``conv`` does; see :func:`pays`."""
    outputs, inputs, rows, columns = conv.weight.shape
    weight = conv.weight.new_zeros(outputs, BLOCK, BLOCK, inputs, rows + BLOCK - 1, columns + BLOCK - 1)
    for y in range(BLOCK):
        for x in range(BLOCK):
            weight[:, y, x, :, y : y + rows, x : x + columns] = conv.weight
    bias = None if conv.bias is None else conv.bias.repeat_interleave(BLOCK * BLOCK)
    return BlockWeights(weight.flatten(0, 2), bias)


class BlockConv(nn.Module):
    """What ``conv`` computes, for inference.

    Shape:
        (N, C, H, W) to (N, O, H - k + 1, W - k + 1) as the conv's; both sides of the output must be even.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        weight, bias = block_weights(conv)
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(self.weight, Tensor)
        return F.pixel_shuffle(F.conv2d(x, self.weight, self.bias, stride=BLOCK), BLOCK)  # type: ignore[arg-type]


def use_blocks(network: Generator) -> Generator:
    """Swap every conv for which it pays for a :class:`BlockConv`, in place and for inference (weights become buffers).

    A generator's sides are multiples of at least 2, and so are its output's.
    """
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if pays(child):
                assert isinstance(child, nn.Conv2d)
                setattr(parent, name, BlockConv(child))
    return network
