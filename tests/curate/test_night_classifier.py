"""Night is told from day, and a dim copy of the day is no night."""

from __future__ import annotations

import numpy as np
import pytest

from nightaug.curate.night_classifier import NightClassifier, dim_copy, statistics, train_night_classifier
from nightaug.data.scenes import render
from nightaug.relight import relight

COUNT = 16


@pytest.fixture(scope="module")
def pictures() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Day and night of other scenes."""
    return tuple(
        [render(first + 4 * i, 64, 36, time)[0] for i in range(COUNT)]
        for first, time in ((0, "daytime"), (1000, "night"))
    )  # type: ignore[return-value]


@pytest.fixture(scope="module")
def classifier(pictures: tuple[list[np.ndarray], list[np.ndarray]]) -> NightClassifier:
    rng = np.random.default_rng(0)
    day, night = ([statistics(image) for image in group] for group in pictures)
    return train_night_classifier(day, [statistics(dim_copy(image, rng)) for image in pictures[0]], night)


def test_it_tells_night_from_a_dim_day(classifier: NightClassifier) -> None:
    assert classifier.accuracy > 0.9
    assert classifier.images == (COUNT, COUNT, COUNT)
    unseen = [render(2000 + 4 * i, 64, 36)[0] for i in range(4)]
    for gain in (1.0, 0.4, 0.1):
        assert classifier([statistics((image * gain).astype(np.uint8)) for image in unseen]).mean() < 0.2, gain
    nights = [render(3000 + 4 * i, 64, 36, "night")[0] for i in range(4)]
    assert classifier([statistics(image) for image in nights]).mean() > 0.8
    relit = [relight(*_scene(2000 + 4 * i)) for i in range(4)]
    assert classifier([statistics(image) for image in relit]).mean() > 0.6


def _scene(seed: int) -> tuple[np.ndarray, list]:
    image, frame = render(seed, 64, 36)
    return image, frame.boxes


def test_accuracy_is_of_images_held_out() -> None:
    """On noise the fit is perfect and the accuracy is chance."""
    rng = np.random.default_rng(0)
    day, dim, night = (list(rng.normal(size=(20, 22))) for _ in range(3))
    made = train_night_classifier(day, dim, night)
    assert (made(night) > 0.5).mean() > 0.9
    assert made.accuracy < 0.75


def test_the_same_seed_is_the_same_classifier(pictures: tuple[list[np.ndarray], list[np.ndarray]]) -> None:
    rows = [[statistics(image) for image in group] for group in pictures]
    made = [train_night_classifier(rows[0], rows[0], rows[1], seed) for seed in (0, 0)]
    assert np.array_equal(made[0].weights, made[1].weights)
    assert made[0].accuracy == made[1].accuracy


def test_odd_images(classifier: NightClassifier) -> None:
    for level in (0, 255):
        assert np.isfinite(classifier([statistics(np.full((5, 40, 3), level, np.uint8))])).all()
    with pytest.raises(ValueError, match="expected 10 day and night images"):
        train_night_classifier([np.zeros(22)] * 3, [np.zeros(22)] * 3, [np.zeros(22)] * 30)
