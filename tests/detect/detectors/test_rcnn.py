from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from two_stage import BOXES, WHOLE, awake, images, make, target

from nightaug.detect.detectors import Target
from nightaug.detect.detectors.base import EmbeddedRegions
from nightaug.detect.detectors.rcnn import RCNNDetector
from nightaug.detect.detectors.region_head import Embedded, ObjectnessHead, RegionHead
from nightaug.errors import ConfigError
from nightaug.images import Letterbox
from nightaug.losses import weighted_total


@pytest.mark.parametrize("name", ["faster-rcnn-resnet18", "faster-rcnn-resnet50"])
@pytest.mark.parametrize("norm", ["batch", "group", "frozen"])
def test_every_backbone_trains(name: str, norm: str) -> None:
    detector = make(detector=name, rcnn={"norm": norm, "width": 1.0})
    forward = detector(images(), [target(BOXES), target([])])
    assert set(forward.losses) == set(detector.loss_weights)
    sum(forward.losses.values()).backward()
    assert [tuple(level.shape[-2:]) for level in forward.pyramid] == [(16, 32), (8, 16), (4, 8), (2, 4), (1, 2)]
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in detector.parameters() if p.requires_grad)


def test_the_seed_makes_the_weights_and_leaves_the_global_state_alone() -> None:
    before = torch.get_rng_state()
    one, same, other = (make(seed=seed).state_dict()["box_head.fc6.weight"] for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("objectness", ["anchor", "oln"])
def test_it_learns_one_picture_by_heart(objectness: str) -> None:
    # Of few objects the boxes' losses are small against the rest.
    detector = make(rcnn={"objectness": objectness, "box": 5, "proposal_box": 5}).train()
    shown = torch.full((1, 3, 64, 128), 60, dtype=torch.uint8)
    shown[:, :, 16:48, 24:72] = 220
    label = [target([[24, 16, 72, 48]])]
    optimizer = torch.optim.AdamW(detector.parameters(), lr=2e-3)
    for number in range(60):
        detector.number = number
        optimizer.zero_grad()
        weighted_total(detector(shown, label).losses, detector.loss_weights).backward()
        optimizer.step()
    found = detector.found(detector(shown))[0]
    assert int(found.labels[0]) == 0
    assert found.boxes[0].tolist() == pytest.approx([24, 16, 72, 48], abs=6)
    assert float(found.scores[0]) > 0.4
    assert bool((found.scores[:-1] >= found.scores[1:]).all())


# -- draws and weights -------------------------------------------------------------------------------------------


def drawn(detector: RCNNDetector, shown: Tensor, labels: list[Target]) -> dict[str, float]:
    return {name: float(value.detach()) for name, value in detector(shown, labels).losses.items()}


def test_what_learns_follows_from_the_seed_and_the_number_of_the_pass() -> None:
    few = {"norm": "group", "samples": 8, "rpn": {"samples": 8}}
    detector, labels = awake(make(rcnn=few)), [target(BOXES), target([[30, 20, 100, 60]])]
    first = drawn(detector, images(), labels)
    torch.manual_seed(99)
    assert drawn(detector, images(), labels) == first
    detector.number = 1
    assert drawn(detector, images(), labels) != first
    assert drawn(awake(make(rcnn=few, seed=7)), images(), labels) != first


@pytest.mark.parametrize("objectness", ["anchor", "oln"])
def test_two_passes_of_one_image_are_one_of_two(objectness: str) -> None:
    few = {"norm": "group", "samples": 8, "objectness": objectness, "rpn": {"samples": 8}}
    detector, labels = awake(make(rcnn=few)), [target(BOXES), target(BOXES)]
    detector.number = 3
    whole = drawn(detector, images(), labels)
    halves = []
    for place in (0, 1):
        detector.number = 6 + place
        halves.append(drawn(detector, images()[place : place + 1], labels[:1]))
    # Losses of objects alone are divided by the objects' number, which may differ; all others must be the mean.
    same = {"objectness", "proposal_box", "box", "classification"} - ({"objectness"} if objectness == "oln" else set())
    for name in same:
        assert whole[name] == pytest.approx((halves[0][name] + halves[1][name]) / 2, rel=1e-4)


def test_weights_scale_what_an_image_adds_and_0_removes_it() -> None:
    whole = {"norm": "group", "samples": 10**6, "foreground_share": 1.0, "rpn": WHOLE}
    detector = awake(make(rcnn=whole))
    first, both = (target(BOXES), target([[30, 20, 100, 60]])), images()
    alone = drawn(detector, both[:1], [first[0]])
    ignored = drawn(detector, both, [first[0], target([[30, 20, 100, 60]], image=0.0)])
    assert ignored == pytest.approx(alone, rel=1e-4)
    nothing = detector(both[:1], [target(BOXES, image=0.0)]).losses
    assert all(float(value.detach()) == 0 for value in nothing.values())
    sum(nothing.values()).backward()


def test_inside_a_label_of_weight_0_nothing_is_learned() -> None:
    """An object there may be given any score without a loss: neither stage sees it as background."""
    whole = {"norm": "group", "samples": 10**6, "foreground_share": 1.0, "rpn": WHOLE}
    detector = awake(make(rcnn=whole))
    labels = [target([[0, 0, 128, 64]], [0.0])]
    forward = detector(images(1), labels)
    assert forward.assignment is not None
    anchors = forward.shared["anchors"].boxes
    inside = ((anchors[:, :2] >= 0) & (anchors[:, 2:] <= torch.tensor([128, 64]))).all(dim=1)
    assert inside.sum() > 100
    assert float(forward.assignment.weight[0, inside].max()) == 0
    assert float(forward.losses["classification"].detach()) == 0


def test_a_batch_without_boxes_teaches_background_and_no_boxes() -> None:
    detector = awake(make(rcnn={"norm": "group"}))
    losses = detector(images(), [target([]), target([])]).losses
    assert float(losses["objectness"].detach()) > 0
    assert float(losses["classification"].detach()) > 0
    assert float(losses["box"].detach()) == float(losses["proposal_box"].detach()) == 0
    sum(losses.values()).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in detector.parameters() if p.requires_grad)


def test_images_behind_the_targets_give_no_losses() -> None:
    detector = awake(make(rcnn={"norm": "group"}))
    alone = drawn(detector, images()[:1], [target(BOXES)])
    assert drawn(detector, images(), [target(BOXES)]) == pytest.approx(alone, rel=1e-4)


# -- precision, detections, regions ------------------------------------------------------------------------------


@pytest.mark.parametrize("objectness", ["anchor", "oln"])
def test_bf16_trains_and_finds(objectness: str) -> None:
    detector = awake(make(rcnn={"objectness": objectness}))
    with torch.autocast("cpu", torch.bfloat16):
        forward = detector(images(), [target(BOXES), target([])])
    assert forward.pyramid[0].dtype == torch.bfloat16
    assert all(value.dtype == torch.float32 for value in forward.losses.values())
    sum(forward.losses.values()).backward()
    assert all(bool(p.grad.isfinite().all()) for p in detector.parameters() if p.grad is not None)
    found = detector.eval().found(forward)  # outside of autocast, as inference does
    assert all(one.boxes.dtype == torch.float32 and bool(one.boxes.isfinite().all()) for one in found)


def test_detections_are_inside_limited_and_above_the_score() -> None:
    detector = awake(make(score=0.0, max_detections=7)).eval()
    found = detector.found(detector(images()))
    for one in found:
        assert len(one.boxes) == 7
        assert bool((one.boxes >= 0).all())
        assert bool((one.boxes <= torch.tensor([128, 64] * 2)).all())
        assert bool((one.scores[:-1] >= one.scores[1:]).all())
    detector.score = 1.0
    assert all(len(one.boxes) == 0 for one in detector.found(detector(images())))


@pytest.mark.parametrize("objectness", ["anchor", "oln"])
def test_a_second_look_classifies_the_boxes_that_were_found(objectness: str) -> None:
    wanted = {"score": 0.0, "nms": 1.0, "max_detections": 400}
    once, twice = (
        awake(make(**wanted, rcnn={"objectness": objectness, "second_look": second})).eval() for second in (False, True)
    )
    forward = twice(images())
    for number, (first, found) in enumerate(zip(once.found(once(images())), twice.found(forward), strict=True)):
        assert {tuple(box) for box in found.boxes.tolist()} == {tuple(box) for box in first.boxes.tolist()}
        given = [found.boxes[:0], found.boxes[:0]]
        given[number] = found.boxes
        scores = twice.head.scores(twice.region_features(forward, given), torch.ones(len(found.boxes)))
        own = scores[torch.arange(len(found.boxes)), found.labels]
        assert torch.allclose(own, found.scores, atol=1e-5)
        assert not torch.allclose(first.scores, found.scores, atol=1e-3)


def test_an_image_without_proposals_is_no_trouble() -> None:
    detector = make(rcnn={"rpn": {"min_side": 1000}, "second_look": True})
    forward = detector(images(), [target(BOXES), target([])])
    sum(forward.losses.values()).backward()
    detector.eval()
    assert [len(one.boxes) for one in detector.found(forward)] == [0, 0]
    assert [len(boxes) for boxes, _ in detector.proposals(forward)] == [0, 0]


def test_features_of_regions_are_read_where_they_are_and_have_gradient() -> None:
    detector = make(rcnn={"norm": "group"}).eval()
    shown = torch.full((1, 3, 64, 128), 60, dtype=torch.uint8)
    shown[:, :, :, 64:] = torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8)
    forward = detector(torch.cat([shown, shown]))
    left, right = torch.tensor([[4.0, 4, 30, 40]]), torch.tensor([[80.0, 4, 106, 40]])
    features = detector.region_features(forward, [torch.cat([left, right]), left])
    assert features.shape == (3, 32)
    assert torch.allclose(features[0], features[2], atol=1e-6)
    assert not torch.allclose(features[0], features[1], atol=1e-3)
    assert torch.equal(detector.region_features(forward.pyramid, [torch.cat([left, right]), left]), features)
    assert detector.region_features(forward, [left[:0], left[:0]]).shape == (0, 32)
    features.sum().backward()
    assert float(detector.backbone.body.conv1.weight.grad.abs().sum()) > 0


@pytest.mark.parametrize("objectness", ["anchor", "oln"])
def test_regions_of_labelled_objects(objectness: str) -> None:
    detector = make(rcnn={"objectness": objectness})
    labels = [target([]), target([[10, 10, 60, 50], [100, 40, 104, 46]])]
    forward = detector(images(), labels)
    regions = detector.labelled_regions(forward, labels, [Letterbox(0.5, 0, 0, 256, 128)] * 2)
    assert set(regions.labels.tolist()) == {0, 1}
    assert regions.features.shape[1] == 32
    assert set(regions.image_index.tolist()) == {1}
    assert regions.original_boxes()[regions.labels == 1][0].tolist() == pytest.approx([200, 80, 208, 92])
    assert regions.overlap is not None
    regions.quality.sum().backward(retain_graph=True)
    assert float(detector.rpn.cls_logits.weight.grad.abs().sum()) > 0
    nothing = detector(images(1), [target([])])
    assert len(detector.labelled_regions(nothing, [target([])])) == 0


def test_regions_of_any_order_are_each_their_own() -> None:
    detector = awake(make(rcnn={"norm": "group"})).eval()
    forward = detector(images())
    image, where = torch.tensor([1, 0, 1, 0]), torch.tensor([1500, 40, 900, 1700])
    together = detector.regions(forward, image, where, torch.zeros(4, dtype=torch.long))
    for n in range(4):
        alone = detector.regions(forward, image[n : n + 1], where[n : n + 1], torch.zeros(1, dtype=torch.long))
        assert torch.allclose(together.features[n], alone.features[0], atol=1e-5)
        assert torch.allclose(together.boxes[n], alone.boxes[0], atol=1e-3)
        assert together.quality[n].item() == pytest.approx(alone.quality[0].item(), abs=1e-5)


# -- heads -------------------------------------------------------------------------------------------------------


class Listening(RegionHead):
    """Keeps what it is given."""

    class_losses = ("seen",)
    wants_embedded = True
    given: Embedded | None = None

    def __init__(self) -> None:
        super().__init__()
        self.loss_weights = {"seen": 1.0}

    def losses(self, features: Tensor, labels: Tensor, weights: Tensor, embedded: Embedded | None) -> dict[str, Tensor]:
        self.given, self.labels, self.weights = embedded, labels, weights
        return {"seen": features.sum()}


def test_a_head_that_learns_from_clip_gets_features_of_the_given_proposals() -> None:
    detector = make(rcnn={"norm": "group"})
    detector.head, detector.facts = Listening(), {"embedding": 5}
    head = detector.head
    given = torch.tensor([[4.0, 4, 30, 40], [80, 4, 106, 40]])
    clip = torch.eye(2, 5, dtype=torch.float16)
    labels = [target(BOXES), target([])]
    labels[1].regions = EmbeddedRegions(given, clip)
    forward = detector(images(), labels)
    assert head.given is not None
    assert torch.equal(head.given.clip, clip.float())
    assert torch.equal(head.given.features, detector.region_features(forward, [given[:0], given]))
    assert set(head.labels.tolist()) <= {-1, 0, 1}
    detector(images(), [target([]), target([])])
    assert head.given is not None
    assert [tuple(value.shape) for value in head.given] == [(0, 32), (0, 5)]


def test_open_vocabulary_heads_are_trained_by_their_own_command() -> None:
    with pytest.raises(ConfigError, match="openvocab train"):
        make(rcnn={"head": "vild"})
    with pytest.raises(ConfigError, match="class_agnostic is for head softmax"):
        make(rcnn={"head": "vild", "class_agnostic": True})


def test_oln_of_one_class_has_no_classifier_and_scores_how_well_a_box_fits() -> None:
    detector = make(("object",), rcnn={"class_agnostic": True, "objectness": "oln"})
    assert isinstance(detector.head, ObjectnessHead)
    forward = detector(images(), [target(BOXES[:1]), target([])])
    assert set(forward.losses) == {"objectness", "proposal_box", "box", "overlap"} == set(detector.loss_weights)
    sum(forward.losses.values()).backward()
    with torch.no_grad():
        detector.rpn.cls_logits.weight.zero_()
        detector.rpn.cls_logits.bias.fill_(torch.logit(torch.tensor(0.5)))
        detector.overlap.weight.zero_()
        detector.overlap.bias.fill_(torch.logit(torch.tensor(0.32)))
    found = detector.eval().found(detector(images()))
    assert found[0].scores.tolist() == pytest.approx([0.4] * len(found[0].scores))  # sqrt(0.5 * 0.32)


def test_oln_never_learns_that_something_is_background() -> None:
    detector = make(("object",), rcnn={"class_agnostic": True, "objectness": "oln"})
    losses = detector(images(), [target([]), target([])]).losses
    assert all(float(value.detach()) == 0 for value in losses.values())


# -- settings ---------------------------------------------------------------------------------------------------


def test_a_slim_resnet_is_for_resnet18_only() -> None:
    with pytest.raises(ConfigError, match=r"rcnn\.width below 1 is for faster-rcnn-resnet18"):
        make(detector="faster-rcnn-resnet50")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"detector": "faster-rcnn-resnet19"}, "faster-rcnn-resnet18"),
        ({"adapt": "vlmcshfg", "target": "x"}, "works on FCOS and YOLO"),
        ({"detector": "fcos-resnet18", "rcnn": {"class_agnostic": True}}, "class_agnostic is for faster-rcnn"),
        ({"rcnn": {"rpn": {"anchors": [8, 16]}}}, "anchors are 5 sides"),
        ({"rcnn": {"rpn": {"background_iou": 0.9}}}, "background_iou"),
        ({"rcnn": {"foreground_iou": 0.4}}, "background_iou"),
        ({"rcnn": {"channels": 33}}, "multiple of 32"),
    ],
)
def test_wrong_settings_say_what_is_right(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make(**changes)
