"""Our Faster R-CNN against torchvision's, and torchvision's weights in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import torchvision
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.image_list import ImageList
from two_stage import BOXES, WHOLE, awake, images, make, target

from nightaug.detect.detectors.rcnn import RCNNDetector
from nightaug.errors import CheckpointError


def torchvisions(detector: RCNNDetector) -> FasterRCNN:
    """torchvision's network with the same weights: their boxes are per class, background first."""
    rpn, options = detector.options.rpn, detector.options
    model = FasterRCNN(
        detector.backbone, rpn_anchor_generator=detector.anchor_generator,
        rpn_pre_nms_top_n_train=rpn.candidates_training, rpn_pre_nms_top_n_test=rpn.candidates,
        rpn_post_nms_top_n_train=rpn.kept_training, rpn_post_nms_top_n_test=rpn.kept, rpn_nms_thresh=rpn.nms,
        rpn_batch_size_per_image=10**6, rpn_positive_fraction=1.0, rpn_head=detector.rpn,
        box_score_thresh=detector.score, box_nms_thresh=detector.nms, box_detections_per_img=detector.max_detections,
        box_batch_size_per_image=10**6, box_positive_fraction=1.0, box_roi_pool=detector.pool,
        box_head=detector.box_head,
        box_predictor=torchvision.models.detection.faster_rcnn.FastRCNNPredictor(options.box_features, 3),
    )  # fmt: skip
    model.rpn.min_size = model.roi_heads.min_size = 1e-2
    predictor, order = model.roi_heads.box_predictor, [2, 0, 1]
    with torch.no_grad():
        for layer, values in (("weight", detector.head.classifier.weight), ("bias", detector.head.classifier.bias)):
            getattr(predictor.cls_score, layer).copy_(values[order])
        predictor.bbox_pred.weight.copy_(detector.box.weight.repeat(3, 1))
        predictor.bbox_pred.bias.copy_(detector.box.bias.repeat(3))
    return model


def test_detections_are_those_of_torchvision() -> None:
    detector = awake(make(rcnn={"rpn": WHOLE}, score=0.001, nms=0.5)).eval()
    model = torchvisions(detector).eval()
    with torch.no_grad():
        forward = detector(images())
        found = detector.found(forward)
        maps = {str(n): level for n, level in enumerate(forward.pyramid)}
        maps["pool"] = maps.pop("4")
        shown = ImageList(images().float(), [(64, 128)] * 2)
        proposals, _ = model.rpn(shown, maps)
        wanted, _ = model.roi_heads(maps, proposals, shown.image_sizes)
    for own, theirs in zip(detector.proposals(forward), proposals, strict=True):
        assert torch.allclose(own.boxes, theirs, atol=1e-3)
        assert bool((own.scores[:-1] >= own.scores[1:]).all())
    for one, theirs in zip(found, wanted, strict=True):
        assert len(one.boxes) > 10
        assert torch.allclose(one.boxes, theirs["boxes"], atol=1e-3)
        assert torch.allclose(one.scores, theirs["scores"], atol=1e-5)
        assert torch.equal(one.labels, theirs["labels"] - 1)


def test_losses_are_those_of_torchvision_where_everything_learns() -> None:
    detector = awake(make(rcnn={"rpn": WHOLE, "samples": 10**6, "foreground_share": 1.0, "norm": "group"}))
    model = torchvisions(detector)
    labels = [target(BOXES), target([[30, 20, 100, 60]])]
    forward = detector(images(), labels)
    maps = {str(n): level for n, level in enumerate(forward.pyramid)}
    maps["pool"] = maps.pop("4")
    shown = ImageList(images().float(), [(64, 128)] * 2)
    theirs = [{"boxes": label.boxes, "labels": label.labels + 1} for label in labels]
    proposals, first = model.rpn(shown, maps, theirs)
    _, second = model.roi_heads(maps, proposals, shown.image_sizes, theirs)
    own = {name: float(value.detach()) for name, value in forward.losses.items()}
    assert own["objectness"] == pytest.approx(first["loss_objectness"].item(), rel=1e-4)
    assert own["proposal_box"] == pytest.approx(first["loss_rpn_box_reg"].item(), rel=1e-4)
    assert own["classification"] == pytest.approx(second["loss_classifier"].item(), rel=1e-4)
    assert own["box"] == pytest.approx(second["loss_box_reg"].item(), rel=1e-4)
    assert min(own.values()) > 0


def test_backbone_weights_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(5)
    network = torchvision.models.resnet18()
    torch.save(network.state_dict(), tmp_path / "resnet18.pth")
    detector = make(rcnn={"width": 1.0}, pretrained=str(tmp_path / "resnet18.pth"))
    assert torch.equal(detector.backbone.body.conv1.weight, network.conv1.weight)
    assert torch.equal(detector.backbone.body.layer1[0].conv1.weight, network.layer1[0].conv1.weight)
    assert "resnet18.pth" in detector.loaded
    with pytest.raises(CheckpointError, match="does not fit faster-rcnn-resnet50"):
        make(detector="faster-rcnn-resnet50", rcnn={"width": 1.0}, pretrained=str(tmp_path / "resnet18.pth"))


def test_a_whole_faster_rcnn_in_torchvisions_old_layout_loads_as_far_as_it_fits(tmp_path: Path) -> None:
    """The published file is of 2019, when some layers had other names."""
    torch.manual_seed(6)
    source = torchvision.models.detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91)
    fpn, state = re.compile(r"(fpn\.\w+_blocks\.\d+)\.0\."), source.state_dict()
    old = {fpn.sub(r"\1.", key).replace("head.conv.0.0.", "head.conv."): value for key, value in state.items()}
    assert {"rpn.head.conv.weight", "backbone.fpn.inner_blocks.0.weight"} <= set(old)
    torch.save(old, tmp_path / "coco.pth")
    published = {"channels": 256, "width": 1.0, "norm": "auto", "box_features": 1024}
    detector = make(detector="faster-rcnn-resnet50", rcnn=published, pretrained=str(tmp_path / "coco.pth"))
    for own, name in {
        "rpn.conv.0.0.weight": "rpn.head.conv.0.0.weight",
        "rpn.bbox_pred.weight": "rpn.head.bbox_pred.weight",
        "box_head.fc7.bias": "roi_heads.box_head.fc7.bias",
        "backbone.fpn.inner_blocks.2.0.weight": "backbone.fpn.inner_blocks.2.0.weight",
        "backbone.body.layer4.2.conv3.weight": "backbone.body.layer4.2.conv3.weight",
    }.items():
        assert torch.equal(detector.state_dict()[own], state[name]), own
    missed = {"box.weight", "box.bias", "head.classifier.weight", "head.classifier.bias"}
    assert f"{len(detector.state_dict()) - len(missed)} of {len(detector.state_dict())} tensors" in detector.loaded
