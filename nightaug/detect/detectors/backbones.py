"""Feature pyramids P3 to P7 on torchvision backbones, with pretrained weights from a tag, a file, or none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import URLError

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from nightaug.detect.detectors.pretrained import download_timeout, fitting
from nightaug.errors import CheckpointError, ConfigError
from nightaug.runs import load_weights


class BackboneKind(NamedTuple):
    """A torchvision model: its builder, the layers that give C3, C4 and C5, their channels, its weight tags."""

    model: str
    layers: tuple[str, str, str]
    channels: tuple[int, int, int]
    weights: str


_RESNET = ("layer2", "layer3", "layer4")
#: Detector name -> backbone.
BACKBONES: dict[str, BackboneKind] = {
    "fcos-resnet18": BackboneKind("resnet18", _RESNET, (128, 256, 512), "ResNet18_Weights"),
    "fcos-resnet50": BackboneKind("resnet50", _RESNET, (512, 1024, 2048), "ResNet50_Weights"),
    "fcos-resnet101": BackboneKind("resnet101", _RESNET, (512, 1024, 2048), "ResNet101_Weights"),
    "fcos-mobilenet": BackboneKind(
        "mobilenet_v3_large", ("6", "12", "16"), (40, 112, 960), "MobileNet_V3_Large_Weights"
    ),
}


def norm_layer(norm: str) -> Callable[..., nn.Module]:
    """A constructor (channels) -> normalisation for ``batch``, ``frozen`` or ``group``."""
    if norm == "frozen":
        return FrozenBatchNorm2d  # type: ignore[no-any-return]
    if norm == "group":
        return lambda channels: nn.GroupNorm(_groups(channels), channels)
    return nn.BatchNorm2d


def _groups(channels: int) -> int:
    # 32 as published; MobileNet's widths are multiples of 8 only.
    return next(groups for groups in (32, 16, 8, 4, 2, 1) if channels % groups == 0)


class LastLevels(LastLevelP6P7):  # type: ignore[misc]
    """P6 and P7 as published, in float32 where P6 is one pixel wide.

    There the CPU's bf16 convolution leaves parts of P7's weight gradient unset: what lay in memory, often NaN
    (seen in torch 2.15).
    """

    def forward(self, p: list[Tensor], c: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        narrow = p[-1].shape[-1] <= 2 and p[-1].device.type == "cpu"
        if not narrow:
            result: tuple[list[Tensor], list[str]] = super().forward(p, c, names)
            return result
        with torch.autocast("cpu", enabled=False):
            result = super().forward([*p[:-1], p[-1].float()], [*c[:-1], c[-1].float()], names)
        return result


class SlimResNet18(ResNet):  # type: ignore[misc]
    """ResNet-18 whose four stages have ``width`` times their channels: for training without a GPU.

    Args:
        width: in (0, 1]; the stages get 64, 128, 256 and 512 times it, whole multiples of 8. The stem keeps its 64.
        norm: constructor of the normalisation.
    """

    def __init__(self, width: float, norm: Callable[..., nn.Module]) -> None:
        self._width = width
        super().__init__(BasicBlock, [2, 2, 2, 2], norm_layer=norm)

    def _make_layer(
        self, block: type[BasicBlock | Bottleneck], planes: int, *args: int, **options: bool | int
    ) -> nn.Sequential:
        layer: nn.Sequential = super()._make_layer(block, slim(planes, self._width), *args, **options)
        return layer


def slim(channels: int, width: float) -> int:
    """``channels`` times ``width``, a whole multiple of 8."""
    return max(8, round(channels * width / 8) * 8)


def build_backbone(name: str, channels: int, norm: str, width: float = 1.0) -> BackboneWithFPN:
    """The feature pyramid network of a detector: five maps (N, ``channels``, H / s, W / s), s = 8, 16, 32, 64, 128.

    Args:
        name: key of :data:`BACKBONES`.
        norm: ``batch``, ``frozen`` or ``group``.
        width: less than 1 makes a ResNet-18 with that share of its channels.

    Raises:
        ConfigError: a width for another backbone.
    """
    kind = BACKBONES[name]
    inside = kind.channels
    if width == 1.0:
        network = getattr(torchvision.models, kind.model)(weights=None, norm_layer=norm_layer(norm))
    elif kind.model != "resnet18":
        raise ConfigError(f"fcos.width below 1 is for fcos-resnet18 only, not for {name}")
    else:
        network = SlimResNet18(width, norm_layer(norm))
        inside = tuple(slim(value, width) for value in kind.channels)  # type: ignore[assignment]
    body = network.features if "mobilenet" in kind.model else network
    return BackboneWithFPN(
        body,
        return_layers={layer: str(at) for at, layer in enumerate(kind.layers)},
        in_channels_list=list(inside),
        out_channels=channels,
        extra_blocks=LastLevels(channels, channels),
    )


def fetch_weights(source: str, kind: str) -> Mapping[str, Tensor]:
    """The tensors behind a torchvision tag (``IMAGENET1K_V1``) or of a weight file.

    Args:
        source: tag or path.
        kind: torchvision weight enum the tag is of.

    Raises:
        CheckpointError: no such tag or file, or the download fails; the message says what to do instead.
    """
    if Path(source).is_file() or "/" in source or Path(source).suffix in {".pth", ".pt", ".safetensors"}:
        if not Path(source).is_file():
            raise CheckpointError(f"{source}: no such weight file")
        return load_weights(source)[0]
    tags = _enum(kind).__members__
    if source not in tags:
        raise CheckpointError(
            f"pretrained '{source}' is neither a file nor a torchvision tag (there are: {', '.join(sorted(tags))}); "
            "use one of them, a weight file, or null to start from scratch"
        )
    entry = tags[source]
    try:
        with download_timeout():
            state: Mapping[str, Tensor] = torch.hub.load_state_dict_from_url(
                entry.url, map_location="cpu", progress=False, weights_only=True
            )
    except (URLError, OSError, RuntimeError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise CheckpointError(
            f"{source} cannot be downloaded ({error}); fetch {entry.url} elsewhere and put it into {folder}, "
            "or give the file itself with --set pretrained=FILE, or start from scratch with --set pretrained=null"
        ) from error
    return state


def _enum(name: str) -> Any:
    found = getattr(torchvision.models, name, None) or getattr(torchvision.models.detection, name)
    return found


def load_pretrained(backbone: BackboneWithFPN, name: str, source: str, state: Mapping[str, Tensor]) -> str:
    """Put ImageNet weights into a backbone; returns a line that says what was loaded.

    Args:
        name: key of :data:`BACKBONES`.
        source: where the weights are from, for messages.
        state: the tensors of a classifier in torchvision's layout.

    Raises:
        CheckpointError: they are of another architecture.
    """
    if "mobilenet" in name:
        state = {key.removeprefix("features."): value for key, value in state.items() if key.startswith("features.")}
    wanted = backbone.body.state_dict()
    fits, missing = fitting(state, wanted)
    if missing:
        raise CheckpointError(
            f"{source} does not fit {name}: {len(missing)} of {len(wanted)} tensors are missing or of another shape "
            f"(the first: {missing[0]}); it needs weights of torchvision's {BACKBONES[name].model}"
        )
    backbone.body.load_state_dict(fits, strict=False)
    return f"backbone from {source} ({len(fits)} tensors)"
