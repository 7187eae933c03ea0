from __future__ import annotations

import torch

from nightaug.cyclegan.losses import discriminator_loss, l1, least_squares


def test_least_squares_against_the_closed_form() -> None:
    logits = torch.tensor([[0.0, 1.0], [2.0, -1.0]]).reshape(1, 1, 2, 2)
    assert least_squares(logits, True).item() == (1 + 0 + 1 + 4) / 4
    assert least_squares(logits, False).item() == (0 + 1 + 4 + 1) / 4
    assert discriminator_loss(torch.ones(1, 1, 3, 3), torch.zeros(1, 1, 3, 3)).item() == 0
    assert discriminator_loss(torch.zeros(1, 1, 3, 3), torch.ones(1, 1, 3, 3)).item() == 1  # half of 1 + 1


def test_losses_pull_the_right_way_and_come_in_float32() -> None:
    fake = torch.zeros(1, 1, 4, 4, dtype=torch.bfloat16, requires_grad=True)
    loss = least_squares(fake, True)
    loss.backward()
    assert loss.dtype == torch.float32
    assert (fake.grad < 0).all()  # raising the logits makes fakes look real
    image = torch.full((1, 3, 4, 4), 0.5, requires_grad=True)
    l1(image, torch.zeros(1, 3, 4, 4)).backward()
    assert (image.grad > 0).all()
