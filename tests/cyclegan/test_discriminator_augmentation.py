from __future__ import annotations

import pytest
import torch

from nightaug.cyclegan.discriminator_augmentation import AUGMENTATIONS, augment


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
def test_changes_images_keeps_shape_gradient_and_seed(name: str) -> None:
    images = (torch.rand(3, 3, 32, 48) * 2 - 1).requires_grad_()
    out = augment(images, [name], torch.Generator().manual_seed(1))
    assert out.shape == images.shape
    assert not torch.equal(out, images)
    assert torch.equal(out, augment(images, [name], torch.Generator().manual_seed(1)))
    out.sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def test_no_names_no_change() -> None:
    images = torch.rand(1, 3, 8, 8)
    assert augment(images, [], torch.Generator()) is images
