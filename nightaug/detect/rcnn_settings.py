"""Every constant of the two-stage detector, named, with its unit, range and default."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from nightaug.config import Settings
from nightaug.detect.openvocab.settings import LPOVODSettings, ViLDSettings

#: Levels of the pyramid: P2 to P5, and P6, a coarser P5.
LEVELS = 5


class RPNSettings(Settings):
    """The proposal network (Ren et al., 2015, with the pyramid of Lin et al., 2017)."""

    #: Side of the anchors on P2, P3, P4, P5 and P6, pixels of the network's input (published for a short side of 800).
    anchors: tuple[float, ...] = (32, 64, 128, 256, 512)
    #: Their height / width, each with the same area.
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    #: Anchors of at least this IoU with an object learn it; so does the best anchor of every object.
    foreground_iou: float = Field(0.7, ge=0, le=1)
    #: Anchors under this IoU with every object are background; those in between are neither.
    background_iou: float = Field(0.3, ge=0, le=1)
    #: objectness oln: anchors of at least this IoU with an object learn how central they lie in it, others nothing.
    oln_iou: float = Field(0.3, ge=0, le=1)
    #: Anchors of an image that learn, drawn at random, and the share of objects among them that is not exceeded.
    samples: PositiveInt = 256
    foreground_share: float = Field(0.5, gt=0, le=1)
    #: The best proposals of a level that go on to suppression, in training and afterwards.
    candidates_training: PositiveInt = 2000
    candidates: PositiveInt = 1000
    #: Overlap at which the weaker proposal of a level goes.
    nms: float = Field(0.7, gt=0, le=1)
    #: Proposals of an image that are left, in training and afterwards.
    kept_training: PositiveInt = 1000
    kept: PositiveInt = 1000
    #: Proposals narrower or lower than this many pixels of the network's input are dropped.
    min_side: float = Field(1.0, ge=0)
    #: Where the smooth L1 loss of the boxes becomes linear.
    beta: float = Field(1 / 9, gt=0)

    @model_validator(mode="after")
    def _fits(self) -> RPNSettings:
        if len(self.anchors) != LEVELS or any(side <= 0 for side in self.anchors):
            raise ValueError(f"anchors are {LEVELS} sides over 0 pixels, one a level, got {self.anchors}")
        if not self.ratios or any(ratio <= 0 for ratio in self.ratios):
            raise ValueError(f"ratios are numbers over 0, got {self.ratios}")
        if self.background_iou > self.foreground_iou:
            raise ValueError("background_iou must not be over foreground_iou")
        return self


class RCNNSettings(Settings):
    """The shape of a Faster R-CNN, what its stages learn from, and the weights of its losses."""

    #: What classifies the regions: a plain classifier, or one of an open vocabulary (METHODS sections 3 and 4).
    head: Literal["softmax", "vild", "lp-ovod"] = "softmax"
    #: Train one class, "object", from the boxes of all classes: for proposals.
    class_agnostic: bool = False
    #: Channels of the pyramid (published: 256).
    channels: int = Field(256, ge=32)
    #: F, width of a region's feature (published: 1024).
    box_features: int = Field(1024, ge=8)
    #: Share of the backbone's channels (faster-rcnn-resnet18 without pretrained weights only).
    width: float = Field(1.0, gt=0, le=1)
    #: Normalisation of the backbone. auto: frozen with pretrained weights, group from scratch.
    norm: Literal["auto", "batch", "frozen", "group"] = "auto"
    rpn: RPNSettings = RPNSettings()
    #: What the proposal network's score means. anchor: object or background. oln: how central the anchor lies in its
    #: object, learned from objects alone, and then the box' IoU: finds classes nobody labelled (Kim et al., 2022).
    objectness: Literal["anchor", "oln"] = "anchor"
    #: Cells a side of a region, and samples a side of a cell (0: one a pixel of the map).
    pool: int = Field(7, ge=1)
    pool_samples: int = Field(2, ge=0)
    #: Side of a region that is read from P4, pixels; half of it from P3, and so on (published: 224).
    canonical: float = Field(224.0, gt=0)
    #: What says that a proposal shows an object. iou: intersection over union. cover: intersection over the object's
    #: area, as in the public reproduction of ViLD, where every box around the object then scores high.
    assign: Literal["iou", "cover"] = "iou"
    #: Proposals at or over this are objects, others under background_iou are background, those between are neither.
    foreground_iou: float = Field(0.5, ge=0, le=1)
    background_iou: float = Field(0.5, ge=0, le=1)
    #: Proposals of an image that learn, drawn at random, and the share of objects among them that is not exceeded.
    samples: PositiveInt = 512
    foreground_share: float = Field(0.25, gt=0, le=1)
    #: Precomputed proposals of an image that are learned from, drawn at random (heads that learn from CLIP).
    embedded: PositiveInt = 256
    #: Detecting: read a region again in the box found from it, and classify that. Whatever is learned from objects'
    #: own boxes, as CLIP's embeddings are, judges them better than the proposals they were found from; as in the last
    #: stage of a cascade (Cai and Vasconcelos, CVPR 2018).
    second_look: bool = False
    #: Where the smooth L1 loss of the boxes becomes linear.
    beta: float = Field(1 / 9, gt=0)
    #: Weights of the losses: of the proposal network, of the boxes, of their predicted IoU (oln), of the classifier.
    objectness_weight: float = Field(1.0, ge=0)
    proposal_box: float = Field(1.0, ge=0)
    box: float = Field(1.0, ge=0)
    overlap: float = Field(1.0, ge=0)
    classification: float = Field(1.0, ge=0)
    #: Of the open-vocabulary heads, which have losses of their own.
    vild: ViLDSettings = ViLDSettings()
    lp_ovod: LPOVODSettings = LPOVODSettings()

    @model_validator(mode="after")
    def _consistent(self) -> RCNNSettings:
        if self.channels % 32:
            raise ValueError(f"channels must be a multiple of 32, got {self.channels}")
        if self.background_iou > self.foreground_iou:
            raise ValueError("background_iou must not be over foreground_iou")
        if self.class_agnostic and self.head != "softmax":
            raise ValueError(f"class_agnostic is for head softmax, not for {self.head}")
        return self
