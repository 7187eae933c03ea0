"""FCOS (Tian et al., 2019) on torchvision's parts, with its pyramid and centerness laid open.

The network is torchvision's own ``FCOS`` and keeps its weight names, so that published weights load; only its loss is
replaced, by one that knows label weights (see :mod:`nightaug.detect.detectors.fcos_loss`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSHead, FCOSRegressionHead
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import batched_nms

from nightaug.detect.detectors.backbones import Pixels, build_backbone, load_published, resolve_norm
from nightaug.detect.detectors.base import Assignment, Detector, Forward, Found, Target
from nightaug.detect.detectors.fcos_loss import Locations, assign, decode, fcos_losses
from nightaug.detect.regions import RegionBatch
from nightaug.detect.settings import DetectorSettings
from nightaug.images import Letterbox

#: Side of each level's one anchor, pixels: P3 to P7.
SIZES = (8, 16, 32, 64, 128)
#: Candidates an image before non-maximum suppression.
CANDIDATES = 1000
#: Where the box branch starts from scratch: 2 strides to each side. At torchvision's 0 its ReLU starts half dead.
START_DISTANCE = 2.0


class FCOSDetector(Detector):
    """FCOS with a ResNet or MobileNetV3 pyramid.

    Args:
        settings: see :class:`~nightaug.detect.settings.DetectorSettings`.
        classes: canonical class names.
        pretrained: load ``settings.pretrained``.

    Raises:
        CheckpointError: the pretrained weights cannot be had or do not fit.
    """

    class_losses = ("classification",)

    def __init__(self, settings: DetectorSettings, classes: tuple[str, ...], pretrained: bool = True) -> None:
        super().__init__()
        self.follow(settings, classes)
        self.options = settings.fcos
        self.loss_weights = {
            "classification": settings.fcos.classification,
            "box": settings.fcos.box,
            "centerness": settings.fcos.centerness,
        }
        norm = resolve_norm(settings.fcos.norm, bool(settings.pretrained))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            backbone = build_backbone(settings.detector, settings.fcos.channels, norm, settings.fcos.width)
            self.network = FCOS(
                backbone,
                len(classes),
                anchor_generator=AnchorGenerator(tuple((size,) for size in SIZES), ((1.0,),) * len(SIZES)),
                head=_head(settings.fcos.channels, len(classes), settings.fcos.convs),
            )
            nn.init.constant_(self.network.head.regression_head.bbox_reg.bias, START_DISTANCE)
        self.pixels = Pixels()
        self.loaded = self._load_pretrained(settings) if pretrained and settings.pretrained else ""
        self._places: dict[tuple[Any, ...], Locations] = {}

    def _load_pretrained(self, settings: DetectorSettings) -> str:
        source = str(settings.pretrained)
        return load_published(self.network, source, settings.detector, "FCOS", "FCOS_ResNet50_FPN_Weights")

    # -- one pass ------------------------------------------------------------------------------------------------

    def run(self, images: Tensor) -> Forward:
        """See :meth:`Detector.run`."""
        pyramid = list(self.network.backbone(self.pixels(images)).values())
        outputs = self.network.head(pyramid)
        outputs = {
            "logits": outputs["cls_logits"],  # (N, A, K)
            "regression": outputs["bbox_regression"],  # (N, A, 4)
            "centerness": outputs["bbox_ctrness"].squeeze(-1),  # (N, A)
        }
        return Forward({}, pyramid, outputs, {"locations": self._locations(images, pyramid)})

    def losses(self, forward: Forward, targets: Sequence[Target]) -> tuple[dict[str, Tensor], Assignment]:
        """See :meth:`Detector.losses`."""
        out, at = forward.outputs, forward.shared["locations"]
        assignment = assign(at, targets, self.options.radius, self.options.reach_tiny)
        return fcos_losses(out["logits"], out["regression"], out["centerness"], at, targets, assignment), assignment

    def _locations(self, images: Tensor, pyramid: list[Tensor]) -> Locations:
        key = (tuple(images.shape[-2:]), tuple(level.shape[-2:] for level in pyramid), str(images.device))
        if key not in self._places:
            shown = torch.zeros(1, 3, *images.shape[-2:], device=images.device)
            with torch.autocast(images.device.type, enabled=False):
                maps = [torch.zeros(1, 1, *level.shape[-2:], device=images.device) for level in pyramid]
                anchors = self.network.anchor_generator(ImageList(shown, [tuple(images.shape[-2:])]), maps)[0].float()
            level = torch.cat(
                [torch.full((m.shape[-2] * m.shape[-1],), n, device=images.device) for n, m in enumerate(pyramid)]
            )
            size = (anchors[:, 2] - anchors[:, 0]).clone()
            low = torch.where(level == 0, 0.0, size * 4)
            high = torch.where(level == len(pyramid) - 1, torch.inf, size * 8)
            self._places[key] = Locations((anchors[:, :2] + anchors[:, 2:]) / 2, size, low, high, level)
        return self._places[key]

    @torch.no_grad()
    def found(self, forward: Forward) -> list[Found]:
        """Score sqrt(class * centerness); the best 1000, class-wise suppression, the best ``max_detections``."""
        out, at = forward.outputs, forward.shared["locations"]
        scores = (out["logits"].float().sigmoid() * out["centerness"].float().sigmoid()[..., None]).sqrt()  # (N, A, K)
        boxes = decode(out["regression"].float(), at.points, at.size)
        limit = torch.tensor([self.width, self.height] * 2, device=boxes.device, dtype=boxes.dtype)
        result = []
        for score, box in zip(scores, boxes, strict=True):
            flat = score.flatten()
            best, index = flat.topk(min(CANDIDATES, len(flat)))
            kept = best > self.score
            best, index = best[kept], index[kept]
            place, label = index // score.shape[1], index % score.shape[1]
            own = torch.minimum(box[place].clamp(min=0), limit)
            solid = ((own[:, 2:] - own[:, :2]) > 0.5).all(dim=1)
            best, own, label = best[solid], own[solid], label[solid]
            keep = batched_nms(own, best, label, self.nms)[: self.max_detections]
            result.append(Found(own[keep], best[keep], label[keep]))
        return result

    # -- regions -------------------------------------------------------------------------------------------------

    def class_scores(self, forward: Forward) -> Tensor:
        """See :meth:`Detector.class_scores`: without centerness."""
        return forward.outputs["logits"].detach().float().sigmoid()  # type: ignore[no-any-return]

    def regions(
        self,
        forward: Forward,
        image: Tensor,
        where: Tensor,
        labels: Tensor,
        letterboxes: list[Letterbox] | None = None,
    ) -> RegionBatch:
        """See :meth:`Detector.regions`; features are the pyramid's, quality is centerness."""
        out, at = forward.outputs, forward.shared["locations"]
        features = torch.cat([level.flatten(2).transpose(1, 2) for level in forward.pyramid], dim=1)[image, where]
        return RegionBatch(
            features,
            decode(out["regression"].detach().float()[image, where], at.points[where], at.size[where]),
            labels,
            out["logits"].detach().float()[image, where].sigmoid().amax(dim=1),
            out["centerness"].float()[image, where].sigmoid(),
            image,
            at.level[where],
            forward.pyramid,
            letterboxes,
        )


def _head(channels: int, classes: int, convs: int) -> FCOSHead:
    """torchvision's head with 8 channels a normalisation group at any width (at 256 that is its own 32 groups).

    Its 32 groups would leave a narrow head one or two channels each, which on P7's few pixels is no statistic.
    """
    head = FCOSHead(channels, 1, classes, convs)
    norm = partial(nn.GroupNorm, channels // 8)
    head.classification_head = FCOSClassificationHead(channels, 1, classes, convs, norm_layer=norm)
    head.regression_head = FCOSRegressionHead(channels, 1, convs, norm_layer=norm)
    return head
