"""Faster R-CNN (Ren et al., 2015) with a feature pyramid (Lin et al., 2017), whose region classifier can be exchanged.

Proposals and boxes know no classes; what a region shows is the :class:`RegionHead`'s to say: a plain classifier, or one
that compares regions with texts. The networks are torchvision's, so that published weights load; assignment, draws and
losses are our own (see :mod:`nightaug.detect.detectors.rcnn_loss`).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign

from nightaug.detect.adaptation.nodes import step_generator
from nightaug.detect.detectors.backbones import Pixels, build_backbone, load_published, resolve_norm
from nightaug.detect.detectors.base import Assignment, Detector, Forward, Found, Target, row_iou
from nightaug.detect.detectors.rcnn_loss import (
    Sampled,
    box_loss,
    centrality,
    choose,
    join,
    match,
    quality_loss,
    sampled,
    total_weight,
)
from nightaug.detect.detectors.rcnn_proposals import (
    Anchors,
    Proposals,
    best_of_classes,
    flatten_levels,
    make_anchors,
    propose,
)
from nightaug.detect.detectors.region_head import Embedded, RegionHead
from nightaug.detect.rcnn_settings import LEVELS, RCNNSettings
from nightaug.detect.regions import RegionBatch
from nightaug.detect.settings import DetectorSettings
from nightaug.errors import ConfigError
from nightaug.images import Letterbox

#: ``rcnn.head`` -> where its class is: ``Head(settings.rcnn, number of classes, facts)``. Loaded when it is built.
HEADS = {
    "softmax": ("nightaug.detect.detectors.region_head", "SoftmaxHead"),
    "object": ("nightaug.detect.detectors.region_head", "ObjectnessHead"),
    "vild": ("nightaug.detect.openvocab.vild", "ViLDHead"),
    "lp-ovod": ("nightaug.detect.openvocab.lp_ovod", "LPOVODHead"),
}
#: Scales of the box codes (x, y, w, h) of the second stage; those of the first are 1 (Girshick, 2015).
REGION_CODES = (10.0, 10.0, 5.0, 5.0)
#: Spread of a new box regression's weights (Ren et al., 2015).
BOX_SPREAD = 0.001
#: Streams of :func:`step_generator`: the anchors and the proposals that learn.
_ANCHORS, _REGIONS = 31, 32


def _own_name(name: str) -> str:
    """Our name of a tensor of torchvision's Faster R-CNN."""
    return name.replace("rpn.head.", "rpn.").removeprefix("roi_heads.")


def make_head(settings: RCNNSettings, classes: int, facts: Mapping[str, Any]) -> RegionHead:
    """The region head that the settings name.

    Raises:
        ConfigError: it needs facts that are not there.
    """
    name = "object" if settings.class_agnostic and settings.objectness == "oln" else settings.head
    if settings.head != "softmax" and "embedding" not in facts:
        raise ConfigError(
            f"rcnn.head {settings.head} learns from CLIP's embeddings of proposals: train it with "
            "nightaug openvocab train"
        )
    module, kind = HEADS[name]
    head: RegionHead = getattr(importlib.import_module(module), kind)(settings, classes, facts)
    return head


class RCNNDetector(Detector):
    """Faster R-CNN with a ResNet pyramid.

    Args:
        settings: see :class:`~nightaug.detect.settings.DetectorSettings`.
        classes: canonical class names.
        pretrained: load ``settings.pretrained``.
        facts: what the head needs to know beside settings and classes: ``embedding``, CLIP's width; ``novel``, names.

    Attributes:
        head: says what regions show.
        facts: as given.

    Raises:
        ConfigError: the head needs facts that are not there.
        CheckpointError: the pretrained weights cannot be had or do not fit.
    """

    def __init__(
        self,
        settings: DetectorSettings,
        classes: tuple[str, ...],
        pretrained: bool = True,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.follow(settings, classes)
        self.options, self.seed, self.facts = settings.rcnn, settings.seed, dict(facts or {})
        options = self.options
        self.oln = options.objectness == "oln"
        ratios = (options.rpn.ratios,) * LEVELS
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            norm = resolve_norm(options.norm, bool(settings.pretrained))
            self.backbone = build_backbone(settings.detector, options.channels, norm, options.width)
            self.rpn = RPNHead(options.channels, len(options.rpn.ratios))
            self.box_head = TwoMLPHead(options.channels * options.pool**2, options.box_features)
            self.box = nn.Linear(options.box_features, 4)
            nn.init.normal_(self.box.weight, std=BOX_SPREAD)
            nn.init.zeros_(self.box.bias)
            #: oln: a region's IoU with its object, as a logit.
            self.overlap = nn.Linear(options.box_features, 1) if self.oln else None
            self.head = make_head(options, len(classes), self.facts)
        self.pixels = Pixels()
        self.anchor_generator = AnchorGenerator(tuple((side,) for side in options.rpn.anchors), ratios)
        self.pool = MultiScaleRoIAlign(
            [str(n) for n in range(LEVELS - 1)], options.pool, options.pool_samples, canonical_scale=options.canonical
        )
        self.codes = BoxCoder((1.0, 1.0, 1.0, 1.0)), BoxCoder(REGION_CODES)
        weights = {"objectness": options.objectness_weight, "proposal_box": options.proposal_box, "box": options.box}
        if self.oln:
            weights["overlap"] = options.overlap
        assert not weights.keys() & self.head.loss_weights.keys(), "a head's loss has the name of another one"
        self.loss_weights = weights | dict(self.head.loss_weights)
        self.class_losses = self.head.class_losses
        self.loaded = self._load_pretrained(settings) if pretrained and settings.pretrained else ""
        self._anchors: dict[tuple[Any, ...], Anchors] = {}

    def _load_pretrained(self, settings: DetectorSettings) -> str:
        source, coco = str(settings.pretrained), "FasterRCNN_ResNet50_FPN_Weights"
        return load_published(self, source, settings.detector, "Faster R-CNN", coco, _own_name)

    def set_classes(self, names: Sequence[str], text: Tensor) -> None:
        """Look for other classes from now on; see :meth:`RegionHead.set_classes`."""
        self.head.set_classes(names, text)
        self.classes = tuple(names)

    # -- one pass ------------------------------------------------------------------------------------------------

    def run(self, images: Tensor) -> Forward:
        """See :meth:`Detector.run`: the pyramid P2 to P6 and the proposal network."""
        pyramid = list(self.backbone(self.pixels(images)).values())
        logits, deltas = self.rpn(pyramid)
        outputs = {
            "objectness": flatten_levels(logits, 1).squeeze(2),  # (N, A) logits
            "deltas": flatten_levels(deltas, 4),  # (N, A, 4)
        }
        size = (images.shape[-2], images.shape[-1])
        key = (*size, str(images.device))
        if key not in self._anchors:
            self._anchors[key] = make_anchors(self.anchor_generator, size, pyramid)
        return Forward({}, pyramid, outputs, {"anchors": self._anchors[key], "size": size})

    @torch.no_grad()
    def proposals(self, forward: Forward) -> list[Proposals]:
        """Proposals of each image, best first: boxes (P, 4) and objectness (P,) in [0, 1].

        Objectness is the proposal network's alone; the boxes are not yet those of :meth:`found`.
        """
        anchors: Anchors = forward.shared["anchors"]
        scores, deltas = forward.outputs["objectness"].float().sigmoid(), forward.outputs["deltas"].float()
        options, size = self.options.rpn, forward.shared["size"]
        return [
            propose(s, self.codes[0].decode_single(d, anchors.boxes), anchors.level, size, options, self.training)
            for s, d in zip(scores, deltas, strict=True)
        ]

    def region_features(self, forward: Forward | Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """(P, F) fp32 features of some regions, with gradient, computed in the precision of the pass.

        Args:
            forward: a pass, or its pyramid.
            boxes: of each image (P_i, 4) xyxy pixels of the network's input, each with an area.
        """
        pyramid = forward.pyramid if isinstance(forward, Forward) else forward
        finest, device = pyramid[0], pyramid[0].device.type
        with torch.autocast(device, enabled=False):
            # RoIAlign knows no bf16; and boxes in it would be off by pixels.
            maps = {str(n): level.float() for n, level in enumerate(pyramid[: LEVELS - 1])}
            size = (finest.shape[-2] * 4, finest.shape[-1] * 4)
            pooled = self.pool(maps, [each.detach().float() for each in boxes], [size])
        # A pass in half precision is finished in it, wherever that is.
        half = finest.dtype if finest.dtype != torch.float32 else None
        with torch.autocast(device, dtype=half, enabled=half is not None):
            features: Tensor = self.box_head(pooled)
        return features.float()

    # -- losses --------------------------------------------------------------------------------------------------

    def losses(self, forward: Forward, targets: Sequence[Target]) -> tuple[dict[str, Tensor], Assignment]:
        """See :meth:`Detector.losses`; the assignment is that of the anchors.

        What learns is drawn by the seed, :attr:`number` and the image's place in the batch.
        """
        losses, assignment = self._first_stage(forward, targets)
        parts = self._samples(forward, targets)
        samples = join(parts)
        features = self.region_features(forward, [part.boxes for part in parts])
        deltas, codes = self.box(features).float(), self.codes[1]
        losses["box"] = box_loss(deltas, samples, codes, self.options.beta)
        if self.overlap is not None:
            reached = row_iou(codes.decode_single(deltas.detach(), samples.boxes), samples.objects)
            losses["overlap"] = quality_loss(self.overlap(features).squeeze(1), reached, samples)
        embedded = self._embedded(forward, targets) if self.head.wants_embedded else None
        return losses | self.head.losses(features, samples.labels, samples.weights, embedded), assignment

    def _chance(self, targets: Sequence[Target], place: int, stream: int) -> torch.Generator:
        # By the image's number in the whole training: two processes draw what one with both their batches would.
        return step_generator(self.seed, self.number * len(targets) + place, stream)

    def _first_stage(self, forward: Forward, targets: Sequence[Target]) -> tuple[dict[str, Tensor], Assignment]:
        """The proposal network's losses, and which anchors serve which objects."""
        anchors, options = forward.shared["anchors"].boxes, self.options.rpn
        least = (options.oln_iou,) * 2 if self.oln else (options.foreground_iou, options.background_iou)
        matches = [match(anchors, target, *least, reach=True) for target in targets]
        chosen = [
            choose(found, options.samples, options.foreground_share, self._chance(targets, n, _ANCHORS))
            for n, found in enumerate(matches)
        ]
        samples = join([sampled(anchors, *each) for each in zip(targets, matches, chosen, strict=True)])
        logits, deltas = (
            torch.cat([values[index] for values, index in zip(forward.outputs[name], chosen, strict=True)]).float()
            for name in ("objectness", "deltas")
        )
        if self.oln:
            objectness = quality_loss(logits, centrality(samples.boxes, samples.objects), samples)
        else:
            wanted = (samples.labels >= 0).float()
            each = binary_cross_entropy_with_logits(logits, wanted, reduction="none")
            objectness = (each * samples.weights).sum() / total_weight(samples.weights)
        losses = {"objectness": objectness, "proposal_box": box_loss(deltas, samples, self.codes[0], options.beta)}
        served, weight = (torch.stack(values) for values in zip(*matches, strict=True))
        return losses, Assignment(served, weight)

    def _samples(self, forward: Forward, targets: Sequence[Target]) -> list[Sampled]:
        """The regions of each image that learn: some of its proposals, and of its objects themselves."""
        options, parts = self.options, []
        for n, (found, target) in enumerate(zip(self.proposals(forward), targets, strict=True)):
            # Objects are there from the first step on, when no proposal reaches them.
            boxes = torch.cat([found.boxes, target.boxes[target.weights > 0].to(found.boxes.dtype)])
            cover = options.assign == "cover"
            matched = match(boxes, target, options.foreground_iou, options.background_iou, cover=cover)
            chance = self._chance(targets, n, _REGIONS)
            chosen = choose(matched, options.samples, options.foreground_share, chance)
            parts.append(sampled(boxes, target, matched, chosen))
        return parts

    def _embedded(self, forward: Forward, targets: Sequence[Target]) -> Embedded:
        """The precomputed proposals of a batch; no rows where no image has any."""
        given = [target.regions for target in targets]
        boxes = [forward.pyramid[0].new_zeros(0, 4) if each is None else each.boxes for each in given]
        none = forward.pyramid[0].new_zeros(0, int(self.facts["embedding"]), dtype=torch.float32)
        clip = torch.cat([none, *(each.clip.float() for each in given if each is not None)])
        return Embedded(self.region_features(forward, boxes), clip)

    # -- detections ----------------------------------------------------------------------------------------------

    def _refined(self, features: Tensor, boxes: Tensor, objectness: Tensor) -> tuple[Tensor, Tensor]:
        """Of regions: the boxes (P, 4) found there, and objectness (P,), of oln with IoU."""
        if self.overlap is not None:
            objectness = (objectness * self.overlap(features).float().squeeze(1).sigmoid()).sqrt()
        refined: Tensor = self.codes[1].decode_single(self.box(features).float(), boxes.float())
        return refined, objectness

    @torch.no_grad()
    def found(self, forward: Forward) -> list[Found]:
        """Every class over the score in every proposal, class-wise suppression, the best ``max_detections``."""
        proposals = self.proposals(forward)
        given = [each.boxes for each in proposals]
        counts = [len(each) for each in given]
        features = self.region_features(forward, given)
        boxes, objectness = self._refined(features, torch.cat(given), torch.cat([each.scores for each in proposals]))
        height, width = forward.shared["size"]
        boxes = torch.minimum(boxes.clamp(min=0), boxes.new_tensor([width, height] * 2))
        if self.options.second_look:
            features = self.region_features(forward, torch.split(boxes, counts))
        scores = self.head.scores(features, objectness)
        result = []
        for score, box in zip(torch.split(scores, counts), torch.split(boxes, counts), strict=True):
            result.append(best_of_classes(box, score, self.score, self.nms, self.max_detections))
        return result

    def regions(
        self,
        forward: Forward,
        image: Tensor,
        where: Tensor,
        labels: Tensor,
        letterboxes: list[Letterbox] | None = None,
    ) -> RegionBatch:
        """See :meth:`Detector.regions`: places are anchors, features those of the proposal made there."""
        anchors, count = forward.shared["anchors"], len(forward.outputs["objectness"])
        deltas = forward.outputs["deltas"].detach().float()[image, where]
        proposed = self.codes[0].decode_single(deltas, anchors.boxes[where])
        objectness = forward.outputs["objectness"].float()[image, where].sigmoid()
        order = torch.sort(image, stable=True).indices  # features come image after image
        back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        given = [proposed[order][image[order] == number] for number in range(count)]
        features = self.region_features(forward, given)[back]
        refined, quality = self._refined(features, proposed, objectness)
        scores = self.head.scores(features, quality)
        return RegionBatch(
            features,
            refined.detach(),
            labels,
            scores.detach().amax(dim=1),
            quality,
            image,
            anchors.level[where],
            forward.pyramid,
            letterboxes,
        )
