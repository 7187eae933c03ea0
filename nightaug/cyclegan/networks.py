"""CycleGAN's networks (Zhu et al., ICCV 2017), with the key layout of the public weights.

Generator: 7x7 conv, two stride-2 convs, 6 or 9 residual blocks, two upsampling steps, 7x7 conv, tanh.
Discriminator: the 70x70 PatchGAN. Both are fully convolutional. Images are (N, 3, H, W) in [-1, 1].
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from nightaug.errors import CheckpointError

Upsampling = Literal["bilinear", "transposed"]

#: Sides of the generator's input must be a multiple of this (two stride-2 steps).
SIZE_MULTIPLE = 4


class InstanceNorm(nn.InstanceNorm2d):
    """InstanceNorm without affine or running statistics, (N, C, H, W) to the same.

    For one image it is by definition what BatchNorm computes in training, and torch's BatchNorm is several
    times as fast in channels_last memory, which the convolutions prefer.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, affine=False, track_running_stats=False)

    def forward(self, input: Tensor) -> Tensor:
        if input.shape[0] == 1:
            return F.batch_norm(input, None, None, training=True, eps=self.eps)
        return super().forward(input)


def _norm(channels: int) -> nn.Module:
    return InstanceNorm(channels)


class ResidualBlock(nn.Module):
    """Two reflection-padded 3x3 convs with InstanceNorm and a skip, (N, C, H, W) to the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3), _norm(channels), nn.ReLU(True),
            nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3), _norm(channels),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.conv_block(x)
        return out


class UpsampleConv(nn.Sequential):
    """Bilinear x2, then a 3x3 conv: no checkerboard, where a transposed conv shows one on smooth sky."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
            nn.ReflectionPad2d(1),
            nn.Conv2d(inputs, outputs, 3),
        )


class GeneratorShape(NamedTuple):
    """Architecture of a generator, as its state dict tells it."""

    width: int
    blocks: int
    upsampling: Upsampling
    residual: bool = False


class ResnetGenerator(nn.Module):
    """Image to image generator.

    Args:
        width: channels after the first conv (64 in the paper).
        blocks: residual blocks, 6 for 128 px images and 9 for 256 px and more in the paper.
        upsampling: ``transposed`` is the paper's, ``bilinear`` is free of checkerboards.
        residual: the network says what is to change about its input: image + tanh(...), cut to [-1, 1].

    Shape:
        (N, 3, H, W) in [-1, 1] to (N, 3, H, W) in [-1, 1]; H and W multiples of 4, at least 8.
    """

    def __init__(
        self, width: int = 64, blocks: int = 9, upsampling: Upsampling = "bilinear", residual: bool = False
    ) -> None:
        super().__init__()
        self.shape = GeneratorShape(width, blocks, upsampling, residual)
        self.width, self.blocks = width, blocks
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(3, width, 7), _norm(width), nn.ReLU(True)]
        for channels in (width, 2 * width):
            layers += [nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1), _norm(2 * channels), nn.ReLU(True)]
        layers += [ResidualBlock(4 * width) for _ in range(blocks)]
        for channels in (4 * width, 2 * width):
            half = channels // 2
            up: nn.Module = (
                UpsampleConv(channels, half)
                if upsampling == "bilinear"
                else nn.ConvTranspose2d(channels, half, 3, stride=2, padding=1, output_padding=1)
            )
            layers += [up, _norm(half), nn.ReLU(True)]
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7), nn.Tanh()]
        self.model = nn.Sequential(*layers)
        self.residual: Tensor | None
        # In the state dict, because that is where a generator's architecture is read from.
        self.register_buffer("residual", torch.ones(()) if residual else None)

    def forward(self, x: Tensor) -> Tensor:
        return self._finished(x, self.model(x))

    @property
    def last(self) -> nn.Conv2d:
        """The conv that makes the image."""
        conv = self.model[-2]
        assert isinstance(conv, nn.Conv2d)
        return conv

    def _finished(self, x: Tensor, out: Tensor) -> Tensor:
        return out if self.residual is None else (x + out).clamp(-1, 1)

    def features(self, x: Tensor, layers: Collection[int]) -> dict[int, Tensor]:
        """The outputs of the named modules of the encoder, each (N, C, h, w); nothing behind the last is computed."""
        return self._walk(x, layers, max(layers, default=-1) + 1)[1]

    def forward_features(self, x: Tensor, layers: Collection[int]) -> tuple[Tensor, dict[int, Tensor]]:
        """:meth:`forward` and :meth:`features` in one pass."""
        out, found = self._walk(x, layers, len(self.model))
        return self._finished(x, out), found

    def _walk(self, x: Tensor, layers: Collection[int], stop: int) -> tuple[Tensor, dict[int, Tensor]]:
        assert set(layers) <= set(feature_layers(self.blocks)), layers
        found = {}
        for number, module in enumerate(self.model[:stop]):
            x = module(x)
            if number in layers:
                found[number] = x
        return x, found

    @property
    def multiple(self) -> int:
        """Sides of the input must be a multiple of this, pixels."""
        return SIZE_MULTIPLE

    @property
    def radius(self) -> int:
        """How far an output pixel looks around itself, pixels."""
        return receptive_radius(self.blocks)

    def channels(self, layer: int) -> int:
        """Channels of the output of a module of the encoder."""
        return 3 if layer == 0 else self.width * (1 if layer < 4 else 2 if layer < 7 else 4)


def receptive_radius(blocks: int, halvings: int = 2) -> int:
    """How far, in pixels, an output pixel of a generator looks around itself.

    First conv 3; a stride-2 conv 2 ** i; two convs a block at the coarsest stride; an upsampling step and the conv
    after it at most 2 * 2 ** i; last conv 3.
    """
    coarse = 1 << halvings
    return 3 + (coarse - 1) + 2 * coarse * blocks + 2 * (2 * coarse - 2) + 3


def feature_layers(blocks: int) -> tuple[int, ...]:
    """Modules of a generator's encoder and trunk whose outputs nothing later overwrites in place."""
    return (0, 1, 4, 7, *range(9, 10 + blocks))


def middle_block(blocks: int) -> int:
    """The module that is the middle residual block: the deepest that is still the encoder (CUT counts it so)."""
    return 10 + (blocks - 1) // 2


class PatchDiscriminator(nn.Module):
    """70x70 PatchGAN: one logit per patch, no sigmoid (least squares).

    Args:
        width: channels after the first conv (64 in the paper).
        spectral: spectral normalisation of every conv (Miyato et al., 2018); changes the key layout.

    Shape:
        (N, 3, H, W) in [-1, 1] to (N, 1, H / 8 - 2, W / 8 - 2), H and W at least 32.
    """

    def __init__(self, width: int = 64, spectral: bool = False) -> None:
        super().__init__()

        def conv(inputs: int, outputs: int, stride: int) -> nn.Module:
            layer = nn.Conv2d(inputs, outputs, 4, stride=stride, padding=1)
            return spectral_norm(layer) if spectral else layer

        layers: list[nn.Module] = [conv(3, width, 2), nn.LeakyReLU(0.2, True)]
        for inputs, stride in ((width, 2), (2 * width, 2), (4 * width, 1)):
            layers += [conv(inputs, 2 * inputs, stride), _norm(2 * inputs), nn.LeakyReLU(0.2, True)]
        layers += [conv(8 * width, 1, 1)]
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model(x)
        return out


def initialize(module: nn.Module, generator: torch.Generator, std: float = 0.02) -> None:
    """Conv weights from N(0, 0.02), biases 0, drawn from ``generator`` alone."""
    for name, parameter in module.named_parameters():
        with torch.no_grad():
            if name.endswith("bias"):
                parameter.zero_()
            else:
                parameter.normal_(0.0, std, generator=generator)


_RUNNING = re.compile(r"\.(running_mean|running_var|num_batches_tracked)$")


def generator_shape(state: Mapping[str, Tensor]) -> GeneratorShape:
    """Read width, blocks and upsampling off a state dict in the public key layout.

    Raises:
        CheckpointError: these are not the weights of such a generator.
    """
    first = state.get("model.1.weight")
    blocks = {int(m.group(1)) for key in state if (m := re.match(r"model\.(\d+)\.conv_block\.1\.weight$", key))}
    if first is None or first.ndim != 4 or tuple(first.shape[1:]) != (3, 7, 7) or not blocks:
        keys = ", ".join(list(state)[:3]) or "none"
        raise CheckpointError(f"not a CycleGAN ResNet generator: expected keys like model.1.weight, got {keys}, ...")
    if blocks != set(range(10, 10 + len(blocks))):
        raise CheckpointError("not a CycleGAN ResNet generator: its residual blocks are not numbered 10, 11, ...")
    after = 10 + len(blocks)
    return GeneratorShape(
        width=int(first.shape[0]),
        blocks=len(blocks),
        upsampling="transposed" if f"model.{after}.weight" in state else "bilinear",
        residual="residual" in state,
    )


def plain_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without what others have added to it.

    ``module.`` prefixes (data parallel), ``_orig_mod.`` prefixes (torch.compile) and the running
    statistics old public weights carry are dropped: InstanceNorm here never uses them.
    """
    return {
        re.sub(r"^(module\.|_orig_mod\.)+", "", key): value for key, value in state.items() if not _RUNNING.search(key)
    }


def generator_from_state(state: Mapping[str, Tensor]) -> ResnetGenerator:
    """Build the generator a state dict belongs to and load it (public or nightaug's own weights).

    Raises:
        CheckpointError: keys or shapes do not fit; the message lists what is missing and what is too much.
    """
    clean = plain_keys(state)
    shape = generator_shape(clean)
    network = ResnetGenerator(*shape)
    load_strict(network, clean, f"a {shape.blocks}-block generator of width {shape.width}")
    return network


def load_strict(network: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """``load_state_dict`` with an error a user can act on.

    Raises:
        CheckpointError: lists missing and unexpected keys and wrong shapes.
    """
    own = network.state_dict()
    missing, unexpected = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    shapes = [
        f"{key}: expected {tuple(own[key].shape)}, got {tuple(state[key].shape)}"
        for key in sorted(set(own) & set(state))
        if own[key].shape != state[key].shape
    ]
    if missing or unexpected or shapes:
        parts = [
            f"{title} {', '.join(keys[:4])}{', ...' if len(keys) > 4 else ''}"
            for title, keys in (("missing", missing), ("unexpected", unexpected), ("wrong shape", shapes))
            if keys
        ]
        raise CheckpointError(f"the weights do not fit {what}: {'; '.join(parts)}")
    network.load_state_dict(dict(state))
