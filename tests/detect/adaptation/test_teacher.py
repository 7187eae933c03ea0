from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import picture
from torch import Tensor

from nightaug.detect.adaptation.nodes import step_generator
from nightaug.detect.adaptation.teacher import pseudo_facts, pseudo_targets, strong_view
from nightaug.detect.detectors.base import Found


def found(rows: list[tuple[float, float, float, int]]) -> Found:
    """Boxes of 20 x 10 pixels from (x, y, score, class)."""
    boxes = torch.tensor([[x, y, x + 20, y + 10] for x, y, _, _ in rows]).reshape(-1, 4)
    scores = torch.tensor([score for _, _, score, _ in rows])
    return Found(boxes, scores, torch.tensor([label for _, _, _, label in rows], dtype=torch.long))


def night(count: int = 2) -> Tensor:
    """Dark pictures with a lamp and a red tail light."""
    image = np.stack([picture(n, 96, 64, 0.12) for n in range(count)])
    image[:, 8:12, 30:34] = (255, 250, 230)
    image[:, 40:44, 60:66] = (200, 20, 20)
    return torch.from_numpy(image).permute(0, 3, 1, 2).contiguous()


def test_sure_boxes_are_labels_unsure_ones_are_neither_and_the_rest_is_background() -> None:
    detections = found([(0, 0, 0.8, 0), (40, 0, 0.6, 1), (80, 0, 0.5, 0), (0, 40, 0.31, 1), (40, 40, 0.29, 1)])
    target = pseudo_targets([detections], torch.tensor([0.7, 0.6]), unsure=0.5)[0]
    assert target.boxes.tolist() == detections.boxes[:4].tolist()
    assert target.labels.tolist() == [0, 1, 0, 1]
    assert target.weights.tolist() == [1, 1, 0, 0]
    assert target.image_weight == 1


def test_an_unsure_box_around_a_sure_one_goes_unless_it_is_of_another_class() -> None:
    # The second overlaps the first by 19/21, the third as much but is of another class, the fourth by 1/3 only.
    detections = found([(0, 0, 0.9, 0), (1, 0, 0.4, 0), (1, 0, 0.4, 1), (10, 0, 0.4, 0)])
    target = pseudo_targets([detections], torch.tensor([0.5, 0.5]), unsure=0.5)[0]
    assert target.boxes.tolist() == detections.boxes[[0, 2, 3]].tolist()
    assert target.weights.tolist() == [1, 0, 0]
    two = pseudo_targets([found([(0, 0, 0.4, 0), (1, 0, 0.4, 0)])], torch.tensor([0.5, 0.5]), unsure=0.5)[0]
    assert two.weights.tolist() == [0, 0], "unsure boxes do not hide each other"
    both = pseudo_targets([found([(0, 0, 0.9, 0), (1, 0, 0.8, 0)])], torch.tensor([0.5, 0.5]), unsure=0.5)[0]
    assert both.weights.tolist() == [1, 1], "sure boxes stay, however they overlap"


def test_an_image_without_a_sure_box_teaches_nothing() -> None:
    """Not even that all of it is background."""
    some = found([(0, 0, 0.9, 0)]), found([(0, 0, 0.4, 0)]), found([])
    assert [label.image_weight for label in pseudo_targets(some, torch.tensor([0.5]), unsure=0.5)] == [1, 0, 0]


def test_nothing_found_and_the_numbers_of_labels() -> None:
    empty = found([])
    targets = pseudo_targets(
        [empty, found([(0, 0, 0.9, 0), (40, 0, 0.3, 0), (80, 0, 0.6, 1)])], torch.full((2,), 0.5), 0.5
    )
    assert targets[0].boxes.shape == (0, 4)
    assert targets[0].labels.dtype == torch.long
    assert len(targets[0].weights) == 0
    facts = pseudo_facts(targets)
    assert {name: float(value) for name, value in facts.items()} == {"teacher_sure": 1.0, "teacher_unsure": 0.5}
    assert {float(value) for value in pseudo_facts([]).values()} == {0.0}
    assert pseudo_targets([], torch.full((2,), 0.5), 0.5) == []
    assert all(float(value) == 0 for value in pseudo_facts(pseudo_targets([empty], torch.ones(2), 0.5)).values())


def test_unsure_1_leaves_labels_alone() -> None:
    target = pseudo_targets([found([(0, 0, 0.9, 0), (40, 0, 0.49, 0)])], torch.tensor([0.5]), unsure=1)[0]
    assert target.weights.tolist() == [1]


def test_the_view_is_the_generators_and_no_other() -> None:
    images = night(3)
    kept = images.clone()
    view = strong_view(images, step_generator(0, 5, 9))
    assert view.dtype == torch.uint8
    assert view.shape == images.shape
    assert images.equal(kept), "the teacher's images are not touched"
    torch.manual_seed(1)
    assert strong_view(images, step_generator(0, 5, 9)).equal(view)
    assert not strong_view(images, step_generator(0, 6, 9)).equal(view)
    with torch.autocast("cpu", torch.bfloat16):
        assert strong_view(images, step_generator(0, 5, 9)).equal(view)


def test_every_image_has_its_own_view() -> None:
    images = night(1).repeat(6, 1, 1, 1)
    view = strong_view(images, step_generator(0, 0))
    assert len({tuple(one.flatten().tolist()) for one in view}) == 6
    assert strong_view(images[:0], step_generator(0, 0)).shape == (0, 3, 64, 96)


def views(images: Tensor, steps: int = 60) -> Tensor:
    return torch.stack([strong_view(images, step_generator(3, step)) for step in range(steps)]).float()


def test_night_stays_visible_and_in_its_place() -> None:
    images = night(4)
    view = views(images)  # (steps, N, 3, H, W)
    middle = view.mean((2, 3, 4))
    original = images.float().mean((1, 2, 3))
    assert (middle > 0.45 * original).all(), "a dark image never becomes black"
    assert (middle < 3 * original + 15).all()
    assert view.flatten(1).std(1).gt(0).all()
    lamp = view[..., 9:11, 31:33].mean((2, 3, 4))
    assert (lamp > middle + 40).float().mean() > 0.9, "the lamp is where it was, and bright"
    # Places do not move: the mean view is the image, up to light and blur.
    both = torch.stack([view.mean((0, 2)).flatten(), images.float().mean(1).flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.95


def test_the_views_differ_in_light_colour_detail_and_holes() -> None:
    view = views(night(4)).flatten(0, 1)  # (M, 3, H, W)
    light = view.mean((1, 2, 3))
    assert light.max() > 1.8 * light.min()
    tail = view[:, :, 41:43, 62:64].mean((2, 3))
    red = tail[:, 0] - tail[:, 1]
    assert (red.abs() < 12).float().mean() == pytest.approx(0.2, abs=0.12), "some are grey"
    assert (red > 60).float().mean() > 0.5
    holes = (view == 114).all(1).flatten(1).sum(1)
    assert 0.6 < (holes > 2).float().mean() < 1
    assert holes.max() < 0.05 * 64 * 96, "holes are small"
    # How much of the step at the lamp's edge one pixel takes.
    inside, edge, outside = (view[:, 1, 9:11, at].mean(1) for at in (31, 33, 38))
    step = ((edge - view[:, 1, 9:11, 34].mean(1)) / (inside - outside))[inside - outside > 40]
    assert 0.25 < (step < 0.8).float().mean() < 0.6, "some are blurred"
    grain = (view[:, :, 20:36, 70:90].diff(dim=-1)).abs().mean((1, 2, 3))
    assert grain.max() > 3 * grain.min(), "some are smooth, some grainy"
