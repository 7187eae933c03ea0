from __future__ import annotations

import math

import pytest
import torch

from nightaug.detect.detectors import Target
from nightaug.detect.detectors.fcos_loss import (
    Assignment,
    Locations,
    assign,
    centerness_target,
    decode,
    fcos_losses,
    served_objects,
)


def grid(strides: tuple[int, ...] = (8, 16), side: int = 64) -> Locations:
    """Locations of a few levels, as torchvision places them: at whole multiples of the stride."""
    points, size, low, high, level = [], [], [], [], []
    for number, stride in enumerate(strides):
        y, x = torch.meshgrid(torch.arange(0, side, stride), torch.arange(0, side, stride), indexing="ij")
        count = x.numel()
        points.append(torch.stack([x.flatten(), y.flatten()], dim=1).float())
        size.append(torch.full((count,), float(stride)))
        low.append(torch.full((count,), 0.0 if number == 0 else 4.0 * stride))
        high.append(torch.full((count,), math.inf if number == len(strides) - 1 else 8.0 * stride))
        level.append(torch.full((count,), number))
    return Locations(*map(torch.cat, (points, size, low, high, level)))


def target(boxes: list[list[float]], labels: list[int] | None = None, weights: list[float] | None = None) -> Target:
    count = len(boxes)
    return Target(
        torch.tensor(boxes).reshape(-1, 4).float(),
        torch.tensor(labels or [0] * count, dtype=torch.long),
        torch.tensor(weights or [1.0] * count),
    )


def test_assignment_is_torchvisions_where_the_paper_speaks() -> None:
    """Against the plain double loop of the paper's section 3.1 with center sampling."""
    at = grid()
    boxes = [[2.0, 3, 40, 45], [10, 10, 30, 28], [5, 30, 62, 60]]
    got = assign(at, [target(boxes)], 1.5, reach_tiny=False).served[0]
    for number, ((x, y), size, low, high) in enumerate(zip(at.points.tolist(), at.size, at.low, at.high, strict=True)):
        claims = []
        for which, (x0, y0, x1, y1) in enumerate(boxes):
            sides = (x - x0, y - y0, x1 - x, y1 - y)
            near = max(abs(x - (x0 + x1) / 2), abs(y - (y0 + y1) / 2)) < 1.5 * size
            if min(sides) > 0 and near and low < max(sides) < high:
                claims.append(((x1 - x0) * (y1 - y0), which))
        assert int(got[number]) == (min(claims)[1] if claims else -1)


def test_objects_smaller_than_a_stride_are_reached() -> None:
    at = grid()
    tiny = target([[20.5, 20.5, 22.5, 23.5]])  # between the locations 16 and 24
    assert not bool((assign(at, [tiny], 1.5, reach_tiny=False).served >= 0).any())
    index = assign(at, [tiny], 1.5, reach_tiny=True).served[0]
    assert at.points[index >= 0].tolist() == [[24.0, 24.0]]
    assert at.level[index >= 0].tolist() == [0]


@pytest.mark.parametrize("center", [(20.0, 20.0), (24.0, 24.0), (20.0, 24.0), (3.9, 59.9)])
def test_every_tiny_object_has_a_location_wherever_it_stands(center: tuple[float, float]) -> None:
    x, y = center
    index = assign(grid(), [target([[x - 1, y - 1, x + 1, y + 1]])], 1.5, reach_tiny=True).served[0]
    assert int((index >= 0).sum()) >= 1


def test_no_boxes_is_all_background() -> None:
    assignment = assign(grid(), [target([]), target([[8, 8, 30, 30]])], 1.5, True)
    assert bool((assignment.served[0] == -1).all())
    assert bool((assignment.weight[0] == 1).all())
    assert bool((assignment.served[1] == 0).any())


def test_a_box_of_weight_0_is_neither_object_nor_background() -> None:
    at = grid()
    assignment = assign(at, [target([[9, 9, 40, 40], [30, 30, 60, 60]], weights=[0.0, 0.5])], 1.5, True)
    inside = ((at.points > 9) & (at.points < 40)).all(dim=1)
    index, weight = assignment.served[0], assignment.weight[0]
    assert not bool((index == 0).any())
    assert bool((weight[inside & (index < 0)] == 0).all())
    assert weight[index == 1].unique().tolist() == [0.5]
    assert weight[~inside & (index < 0)].unique().tolist() == [1.0]


def test_centerness_closed_form() -> None:
    boxes = torch.tensor([[0.0, 0, 40, 20], [0, 0, 40, 20], [18, 18, 20, 20]])
    points, size = torch.tensor([[20.0, 10], [10, 5], [19, 19]]), torch.full((3,), 8.0)
    got = centerness_target(boxes, points, size)
    assert got.tolist() == pytest.approx([1.0, math.sqrt((10 / 30) * (5 / 15)), 1.0])
    edge = centerness_target(boxes[2:], torch.tensor([[16.0, 19]]), size[2:])  # inside the stride-sized box only
    assert edge.item() == pytest.approx(math.sqrt(1 / 7), abs=1e-4)


def random_head(at: Locations, batch: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(seed)
    count = len(at.points)
    return (
        torch.randn(batch, count, classes, generator=g).requires_grad_(),
        torch.rand(batch, count, 4, generator=g).mul(3).requires_grad_(),
        torch.randn(batch, count, generator=g).requires_grad_(),
    )


def test_losses_against_torchvisions_own() -> None:
    """With all weights 1 and no tiny objects the three losses are torchvision's."""
    from torchvision.models.detection.fcos import FCOSHead

    at = grid()
    targets = [target([[2, 3, 40, 45], [10, 10, 30, 28]], [1, 0]), target([[5, 30, 62, 60]], [2])]
    assignment = assign(at, targets, 1.5, reach_tiny=False)
    logits, regression, centerness = random_head(at, 2, 3)
    got = fcos_losses(logits, regression, centerness, at, targets, assignment)
    half = at.size[:, None] / 2
    anchors = torch.cat([at.points - half, at.points + half], dim=1)
    theirs = FCOSHead(32, 1, 3, 1).compute_loss(
        [{"boxes": t.boxes, "labels": t.labels} for t in targets],
        {"cls_logits": logits, "bbox_regression": regression, "bbox_ctrness": centerness[..., None]},
        [anchors, anchors],
        list(assignment.served),
    )
    assert got["classification"].item() == pytest.approx(theirs["classification"].item(), rel=1e-5)
    assert got["box"].item() == pytest.approx(theirs["bbox_regression"].item(), rel=1e-5)
    assert got["centerness"].item() == pytest.approx(theirs["bbox_ctrness"].item(), rel=1e-5)


@pytest.mark.parametrize("boxes", [[], [[8.0, 8, 30, 30]], [[8.0, 8, 30, 30], [20, 20, 22, 22]]])
def test_gradients_with_0_1_and_2_objects(boxes: list[list[float]]) -> None:
    at = grid()
    logits, regression, centerness = random_head(at, 1, 2)
    targets = [target(boxes)]
    losses = fcos_losses(logits, regression, centerness, at, targets, assign(at, targets, 1.5, True))
    sum(losses.values()).backward()
    assert all(torch.isfinite(value) for value in losses.values())
    assert float(logits.grad.abs().sum()) > 0
    assert (float(regression.grad.abs().sum()) > 0) == bool(boxes)
    assert (float(centerness.grad.abs().sum()) > 0) == bool(boxes)


def test_weights_scale_what_an_object_adds() -> None:
    at = grid()
    logits, regression, centerness = random_head(at, 1, 2)

    def parts(weight: float, image_weight: float = 1.0) -> dict[str, float]:
        one = target([[8, 8, 30, 30], [34, 34, 60, 60]], weights=[weight, 1.0])
        one.image_weight = image_weight
        assignment = assign(at, [one], 1.5, True)
        losses = fcos_losses(logits, regression, centerness, at, [one], assignment)
        total = assignment.weight[assignment.served >= 0].sum().clamp(min=1).item()
        return {name: value.item() * total for name, value in losses.items()}

    full, half, none = parts(1.0), parts(0.5), parts(0.0)
    assert half["box"] - none["box"] == pytest.approx((full["box"] - none["box"]) / 2, rel=1e-4)
    assert half["centerness"] - none["centerness"] == pytest.approx(
        (full["centerness"] - none["centerness"]) / 2, rel=1e-4
    )
    dim = parts(1.0, image_weight=0.5)
    assert all(dim[name] == pytest.approx(full[name] / 2, rel=1e-4) for name in full)


def test_an_ignored_place_has_no_gradient() -> None:
    at = grid()
    logits, regression, centerness = random_head(at, 1, 2)
    targets = [target([[9, 9, 40, 40]], weights=[0.0])]
    assignment: Assignment = assign(at, targets, 1.5, True)
    fcos_losses(logits, regression, centerness, at, targets, assignment)["classification"].backward()
    inside = ((at.points > 9) & (at.points < 40)).all(dim=1)
    assert float(logits.grad[0, inside].abs().max()) == 0
    assert float(logits.grad[0, ~inside].abs().min()) > 0


def test_decode_is_the_inverse_of_the_distances() -> None:
    points, size = torch.tensor([[20.0, 30]]), torch.tensor([8.0])
    assert decode(torch.tensor([[1.0, 2, 0.5, 0]]), points, size).tolist() == [[12, 14, 24, 30]]


def test_served_objects_are_each_images_own() -> None:
    targets = [target([[0, 0, 1, 1]], [4]), target([]), target([[2, 2, 3, 3], [5, 5, 6, 6]], [7, 8])]
    served = torch.tensor([[0, -1], [-1, -1], [1, 0]])
    image, where, labels, boxes = served_objects(targets, Assignment(served, torch.ones(3, 2)))
    assert image.tolist() == [0, 2, 2]
    assert where.tolist() == [0, 0, 1]
    assert labels.tolist() == [4, 8, 7]
    assert boxes[:, 0].tolist() == [0, 5, 2]
    nothing = served_objects([target([])], Assignment(torch.full((1, 2), -1), torch.ones(1, 2)))
    assert nothing.labels.shape == (0,)
    assert nothing.boxes.shape == (0, 4)
