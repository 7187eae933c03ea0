from __future__ import annotations

import pytest
import torch
from helpers import picture

from nightaug.cyclegan.dataset import to_tensor
from nightaug.cyclegan.translation_metrics import sliced_wasserstein


def group(level: float, start: int = 0) -> list[torch.Tensor]:
    return [to_tensor(picture(start + i, level=level)) for i in range(6)]


def test_equal_sets_are_close_and_distance_grows_with_brightness() -> None:
    day, day2, dusk, night = group(0.6), group(0.6, 6), group(0.4), group(0.15)
    same = sliced_wasserstein(day, day2)
    assert same < sliced_wasserstein(day, dusk) < sliced_wasserstein(day, night)
    assert sliced_wasserstein(day, night) == pytest.approx(sliced_wasserstein(night, day), rel=0.2)


def test_texture_counts_too() -> None:
    flat = [image * 0 + image.mean() for image in group(0.6)]
    assert sliced_wasserstein(flat, group(0.6, 6)) > 2 * sliced_wasserstein(group(0.6), group(0.6, 6))


def test_bad_sets_say_so() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        sliced_wasserstein([], group(0.6))
    with pytest.raises(ValueError, match="at least 56 px, got 20"):
        sliced_wasserstein([torch.zeros(3, 20, 80)], group(0.6))
