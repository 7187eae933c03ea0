"""Feature pyramids, P3 to P7 or P2 to P6, on torchvision backbones; pretrained weights from a tag, a file, or none."""

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
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from nightaug.detect.detectors.pretrained import current_names, download_timeout, fitting
from nightaug.errors import CheckpointError, ConfigError
from nightaug.runs import load_weights


class BackboneKind(NamedTuple):
    """A torchvision model: its builder, the layers that give C3 (or C2) to C5, their channels, its weight tags."""

    model: str
    layers: tuple[str, ...]
    channels: tuple[int, ...]
    weights: str


_RESNET = ("layer2", "layer3", "layer4")
_FROM_C2 = ("layer1", *_RESNET)
#: Detector name -> backbone.
BACKBONES: dict[str, BackboneKind] = {
    "fcos-resnet18": BackboneKind("resnet18", _RESNET, (128, 256, 512), "ResNet18_Weights"),
    "fcos-resnet50": BackboneKind("resnet50", _RESNET, (512, 1024, 2048), "ResNet50_Weights"),
    "fcos-resnet101": BackboneKind("resnet101", _RESNET, (512, 1024, 2048), "ResNet101_Weights"),
    "fcos-mobilenet": BackboneKind(
        "mobilenet_v3_large", ("6", "12", "16"), (40, 112, 960), "MobileNet_V3_Large_Weights"
    ),
    "faster-rcnn-resnet18": BackboneKind("resnet18", _FROM_C2, (64, 128, 256, 512), "ResNet18_Weights"),
    "faster-rcnn-resnet50": BackboneKind("resnet50", _FROM_C2, (256, 512, 1024, 2048), "ResNet50_Weights"),
    "faster-rcnn-resnet101": BackboneKind("resnet101", _FROM_C2, (256, 512, 1024, 2048), "ResNet101_Weights"),
}

#: Mean and standard deviation of ImageNet's pixels, which torchvision's weights were trained on.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Pixels(nn.Module):
    """Images (N, 3, H, W), RGB 0 to 255, as torchvision's backbones want them: fp32, by ImageNet's statistics."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION).view(1, 3, 1, 1) * 255, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return ((images.float() - self.mean) / self.deviation).contiguous(memory_format=torch.channels_last)


def resolve_norm(norm: str, pretrained: bool) -> str:
    """``auto`` is frozen with pretrained weights, and group, which needs no large batch, from scratch."""
    return norm if norm != "auto" else ("frozen" if pretrained else "group")


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
    """The feature pyramid network of a detector: five maps (N, ``channels``, H / s, W / s).

    s = 8, 16, 32, 64, 128 for one-stage detectors (Lin et al., 2017b), 4, 8, 16, 32, 64 for two-stage ones, whose last
    map is every second pixel of the one before (Lin et al., 2017a).

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
        section, family = ("rcnn", "faster-rcnn") if len(kind.layers) == len(_FROM_C2) else ("fcos", "fcos")
        raise ConfigError(f"{section}.width below 1 is for {family}-resnet18 only, not for {name}")
    else:
        network = SlimResNet18(width, norm_layer(norm))
        inside = tuple(slim(value, width) for value in kind.channels)
    body = network.features if "mobilenet" in kind.model else network
    return BackboneWithFPN(
        body,
        return_layers={layer: str(at) for at, layer in enumerate(kind.layers)},
        in_channels_list=list(inside),
        out_channels=channels,
        extra_blocks=LastLevels(channels, channels) if len(inside) < len(_FROM_C2) else LastLevelMaxPool(),
    )


def fetch_weights(source: str, kind: str) -> Mapping[str, Tensor]:
    """The tensors behind a torchvision tag (``IMAGENET1K_V1``) or of a weight file, by torchvision's present names.

    Args:
        source: tag or path.
        kind: torchvision weight enum the tag is of.

    Raises:
        CheckpointError: no such tag or file, or the download fails; the message says what to do instead.
    """
    if Path(source).is_file() or "/" in source or Path(source).suffix in {".pth", ".pt", ".safetensors"}:
        if not Path(source).is_file():
            raise CheckpointError(f"{source}: no such weight file")
        return current_names(load_weights(source)[0])
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
    return current_names(state)


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


def load_published(
    network: nn.Module, source: str, name: str, kind: str, coco: str, own_name: Callable[[str], str] = str
) -> str:
    """Put published weights into a detector, of its backbone or of the whole; returns a line that says what was loaded.

    Args:
        network: has its pyramid under ``backbone``.
        source: a torchvision tag, of ``coco`` where it begins so, else of the backbone's classifier; or a weight file.
        name: key of :data:`BACKBONES`.
        kind: the detector's family, for messages.
        coco: torchvision's weight enum of the whole detector.
        own_name: from torchvision's name of a tensor to the network's.

    Raises:
        CheckpointError: they cannot be had, or do not fit.
    """
    state = fetch_weights(source, coco if source.startswith("COCO") else BACKBONES[name].weights)
    if not any(key.startswith("backbone.") for key in state):
        backbone: Any = network.backbone
        return load_pretrained(backbone, name, source, state)
    return load_whole(network, {own_name(key): value for key, value in state.items()}, source, name, kind)


def load_whole(network: nn.Module, state: Mapping[str, Tensor], source: str, name: str, kind: str) -> str:
    """Put the weights of a whole detector into one of ours, as far as they fit; returns a line that says what was.

    Args:
        network: has its pyramid under ``backbone``.
        state: the tensors, by the network's own names.
        source, name, kind: where they are from, the detector's name, its family; for messages.

    Raises:
        CheckpointError: a tensor of the pyramid is missing or of another shape.
    """
    own = network.state_dict()
    fits, missing = fitting(state, own)
    missing = [key for key in missing if key.startswith("backbone.")]
    if missing:
        raise CheckpointError(
            f"{source} does not fit {name} with these channels: {len(missing)} backbone tensors are missing or of "
            f"another shape (the first: {missing[0]})"
        )
    network.load_state_dict(fits, strict=False)
    return f"{kind} from {source}: {len(fits)} of {len(own)} tensors (the rest fits other classes and starts anew)"
