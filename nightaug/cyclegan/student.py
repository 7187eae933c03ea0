"""A small generator that learns to copy a trained one: three stride-2 steps, few blocks, skips for the detail.

A CycleGAN's generator spends nine tenths of its time in residual blocks at a quarter of the image's size. The student
works at an eighth, with fewer and narrower blocks; what that loses of the detail comes back through skips from its
encoder, which a network that copies may have (one that must *invent* the night would only copy the day through them).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from nightaug.cyclegan.networks import (
    InstanceNorm,
    ResidualBlock,
    ResnetGenerator,
    UpsampleConv,
    generator_from_state,
    load_strict,
    plain_keys,
    receptive_radius,
)
from nightaug.errors import CheckpointError


class StudentShape(NamedTuple):
    """Architecture of a :class:`StudentGenerator`.

    ``width``: channels at full size; ``blocks``: residual blocks; ``halvings``: stride-2 steps; ``separable``: the
    blocks' convs are depthwise 3x3 and 1x1 ones.
    """

    width: int = 24
    blocks: int = 4
    halvings: int = 3
    separable: bool = False


class SeparableBlock(nn.Module):
    """A residual block of depthwise 3x3 and pointwise convs (Howard et al., 2017), (N, C, H, W) to the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for last in (False, True):
            layers += [
                nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3, groups=channels),
                nn.Conv2d(channels, channels, 1), InstanceNorm(channels), *([] if last else [nn.ReLU(True)]),
            ]  # fmt: skip
        self.conv_block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.conv_block(x)
        return out


class StudentGenerator(nn.Module):
    """Image to image generator with an encoder, a trunk, and a decoder that adds the encoder's maps of its size.

    Shape:
        (N, 3, H, W) in [-1, 1] to (N, 3, H, W) in [-1, 1]; H and W multiples of ``multiple``, at least twice that.
    """

    def __init__(self, width: int = 24, blocks: int = 4, halvings: int = 3, separable: bool = False) -> None:
        super().__init__()
        self.shape = StudentShape(width, blocks, halvings, separable)
        self.width, self.blocks = width, blocks
        widths = [width * 2**step for step in range(halvings + 1)]
        steps = range(halvings)
        self.stem = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(3, width, 7), InstanceNorm(width), nn.ReLU(True))
        self.down = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(widths[at], widths[at + 1], 3, stride=2, padding=1), InstanceNorm(widths[at + 1]),
                nn.ReLU(True),
            )
            for at in steps
        )  # fmt: skip
        block = SeparableBlock if separable else ResidualBlock
        self.trunk = nn.Sequential(*(block(widths[-1]) for _ in range(blocks)))
        self.up = nn.ModuleList(
            nn.Sequential(UpsampleConv(widths[at + 1], widths[at]), InstanceNorm(widths[at])) for at in reversed(steps)
        )
        self.head = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7), nn.Tanh())

    @property
    def multiple(self) -> int:
        """Sides of the input must be a multiple of this, pixels."""
        return 1 << self.shape.halvings

    @property
    def radius(self) -> int:
        """How far an output pixel looks around itself, pixels."""
        return receptive_radius(self.blocks, self.shape.halvings)

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.stem(x)]
        for step in self.down:
            maps.append(step(maps[-1]))
        x = self.trunk(maps.pop())
        for step in self.up:
            x = F.relu(step(x) + maps.pop())
        out: Tensor = self.head(x)
        return out


#: What a translator can be made of.
Generator = ResnetGenerator | StudentGenerator


def student_shape(state: Mapping[str, Tensor]) -> StudentShape | None:
    """Read the architecture off a state dict; None where these are not a student's weights."""
    first = state.get("stem.1.weight")
    if first is None or first.ndim != 4:
        return None
    numbers = {name: {int(m.group(1)) for key in state if (m := re.match(rf"{name}\.(\d+)\.", key))} for name in
               ("down", "trunk")}  # fmt: skip
    depthwise = state.get("trunk.0.conv_block.1.weight")
    return StudentShape(
        width=int(first.shape[0]),
        blocks=len(numbers["trunk"]),
        halvings=len(numbers["down"]),
        separable=depthwise is not None and depthwise.ndim == 4 and depthwise.shape[1] == 1,
    )


def any_generator(state: Mapping[str, Tensor]) -> Generator:
    """The generator a state dict belongs to, loaded: a student's, nightaug's own or a published one.

    Raises:
        CheckpointError: keys or shapes do not fit.
    """
    clean = plain_keys(state)
    shape = student_shape(clean)
    if shape is None:
        return generator_from_state(state)
    if not (1 <= shape.halvings <= 5 and 1 <= shape.width <= 1024 and 1 <= shape.blocks <= 64):
        raise CheckpointError(f"not a distilled generator: a file cannot hold one of {shape}")
    network = StudentGenerator(*shape)
    load_strict(network, clean, f"a distilled generator of width {shape.width} with {shape.blocks} blocks")
    return network
