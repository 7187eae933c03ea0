from __future__ import annotations

import math

import pytest
import torch

from nightaug.cyclegan.faithful_losses import hallucination_outside
from nightaug.cyclegan.label_maps import UNKNOWN, UNSURE
from nightaug.cyclegan.networks import PatchDiscriminator, initialize
from nightaug.cyclegan.segmentation import SegmentingDiscriminator, initialize_decoder, segmentation_loss


@pytest.mark.parametrize(("balance", "focal"), [(0.0, 0.0), (0.5, 0.0), (1.0, 2.0)])
def test_the_loss_against_a_loop(balance: float, focal: float) -> None:
    chance = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 4, generator=chance, requires_grad=True)
    labels = torch.randint(0, 3, (2, 4, 4), generator=chance).to(torch.uint8)
    labels[0, 0], labels[1, 0, 0] = UNSURE, UNKNOWN
    counts = [int((labels == c).sum()) for c in range(3)]
    top = bottom = 0.0
    for n in range(2):
        for y in range(4):
            for x in range(4):
                c = int(labels[n, y, x])
                if c > 2:
                    continue
                p = float(torch.softmax(logits[n, :, y, x], 0)[c])
                weight = counts[c] ** -balance
                top, bottom = top + weight * (1 - p) ** focal * -math.log(p), bottom + weight
    value = segmentation_loss(logits, labels, balance, focal)
    assert value.item() == pytest.approx(top / bottom, rel=1e-5)
    value.backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad.abs().sum(1) > 0, (labels != UNSURE) & (labels != UNKNOWN))


def test_balanced_classes_count_alike_and_nothing_known_is_nothing() -> None:
    # 15 pixels of background at p = 1/2 and one lamp at p = 1/4: in balance the mean of ln 2 and ln 4.
    logits = torch.zeros(1, 2, 4, 4)
    labels = torch.zeros(1, 4, 4, dtype=torch.uint8)
    labels[0, 0, 0] = 1
    logits[0, 0, 0, 0] = math.log(3)
    assert segmentation_loss(logits, labels, 1.0).item() == pytest.approx((math.log(2) + math.log(4)) / 2, rel=1e-5)
    assert segmentation_loss(logits, labels, 0.0).item() == pytest.approx((15 * math.log(2) + math.log(4)) / 16)
    logits.requires_grad_()
    nothing = segmentation_loss(logits, torch.full_like(labels, UNSURE))
    nothing.backward()
    assert nothing.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("focal", [0.5, 1.0, 2.0])
def test_a_pixel_the_head_is_sure_of_has_a_gradient(focal: float) -> None:
    logits = torch.tensor([40.0, 0.0, 0.0, 0.0]).reshape(1, 2, 1, 2).requires_grad_()  # margins of 40 and 0
    segmentation_loss(logits, torch.zeros(1, 1, 2, dtype=torch.uint8), focal=focal).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad[0, :, 0, 1].all()


@pytest.mark.parametrize("size", [(64, 64), (68, 100)])
def test_one_trunk_two_heads(size: tuple[int, int]) -> None:
    network = SegmentingDiscriminator(4, False, classes=3, head_width=6)
    initialize_decoder(network.decoder, torch.Generator().manual_seed(0))
    plain = PatchDiscriminator(4)
    plain.load_state_dict({key: value for key, value in network.state_dict().items() if key.startswith("model.")})
    image = torch.rand(2, 3, *size) * 2 - 1
    assert torch.equal(network(image), plain(image)), "the style head is the PatchGAN itself"
    logits = network.segment(image)
    assert logits.shape == (2, 4, *size)
    logits.square().mean().backward()
    trunk, decoder = network.model[0].weight.grad, network.decoder.logits.weight.grad
    assert trunk is not None
    assert decoder is not None
    assert trunk.any(), "the segmentation trains the shared trunk"
    assert decoder.any()
    assert network.model[-1].weight.grad is None, "and leaves the style head alone"


def test_lamps_are_learned_and_those_outside_boxes_go_out() -> None:
    chance = torch.Generator().manual_seed(0)
    network = SegmentingDiscriminator(8, False, classes=2, head_width=8)
    initialize(network.model, chance, std=0.1)
    initialize_decoder(network.decoder, chance)
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    image, labels = torch.full((2, 3, 32, 32), -0.8), torch.zeros(2, 32, 32, dtype=torch.uint8)
    for n, y, x in ((0, 5, 9), (0, 20, 4), (1, 13, 25)):
        image[n, :, y : y + 2, x : x + 2] = 1.0
        labels[n, y : y + 2, x : x + 2] = 2
    for _ in range(80):
        optimizer.zero_grad()
        segmentation_loss(network.segment(image), labels).backward()
        optimizer.step()
    found = network.segment(image).argmax(1)
    assert (found[labels == 2] == 2).all()
    assert (found[labels == 0] == 0).float().mean() > 0.99

    # Now a day image knows of one of its two lamps only. What paints the other (a generator; here the pixels
    # themselves) is trained by L_hl.
    network.requires_grad_(False)
    day = labels.clone()
    day[0, 20:22, 4:6] = 0
    painted = image.clone().requires_grad_()
    painter = torch.optim.Adam([painted], 0.05)
    before = hallucination_outside(network.segment(painted), day).item()
    for _ in range(60):
        painter.zero_grad()
        hallucination_outside(network.segment(painted), day).backward()
        painter.step()
    assert hallucination_outside(network.segment(painted), day).item() < 0.8 * before
    after = network.segment(painted).argmax(1)
    assert (after[0, 20:22, 4:6] == 0).all(), "the lamp nobody labelled is gone"
    assert (after[0, 5:7, 9:11] == 2).all(), "the labelled one is still there"
