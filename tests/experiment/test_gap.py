from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nightaug.detect.average_precision import average_precision, match
from nightaug.detect.truth import Truth
from nightaug.experiment import gap


def samples(values: np.ndarray, noise: np.ndarray, seeds: tuple[int, ...] = (0, 1, 2)) -> gap.Samples:
    """Arms whose AP in a replicate is ``values`` (S, C) plus ``noise`` (R,), the same for every seed and class."""
    drawn = values[:, None, :] + noise[None, :, None]
    return gap.Samples(seeds, values, drawn)


def test_gap_with_a_known_answer() -> None:
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 0.05, 1000)  # easy and hard images are easy and hard for all arms: it cancels
    own = rng.normal(0, 0.01, 1000)
    day = samples(np.full((3, 2), 0.10), shared)
    ceiling = samples(np.full((3, 2), 0.30), shared)
    arm = samples(np.full((3, 2), 0.20), shared + own)
    found = gap.recovered(arm, day, ceiling, [0, 1], seed=0)
    assert found["value"] == pytest.approx(0.5)
    # 1.96 x 0.01 over a gap of 0.2
    assert found["low"] == pytest.approx(0.5 - 0.098, abs=0.012)
    assert found["high"] == pytest.approx(0.5 + 0.098, abs=0.012)
    over = gap.difference(arm, day, [0, 1], seed=0)
    assert over.value == pytest.approx(0.1)
    assert over.low == pytest.approx(0.1 - 0.0196, abs=0.003)
    # The arm alone wavers five times as much as its difference to day.
    assert np.std(arm.drawn[0, :, 0]) > 4 * np.std(over.replicates)


def test_seeds_are_drawn_too_and_the_same_for_all_arms() -> None:
    nothing = np.zeros(1000)
    seeds = np.array([[0.1], [0.2], [0.3]])
    day, arm = samples(seeds, nothing), samples(seeds + 0.05, nothing)
    over = gap.difference(arm, day, [0], seed=0)
    assert over.low == pytest.approx(0.05)
    assert over.high == pytest.approx(0.05)
    shifted = samples(seeds[::-1] + 0.05, nothing)
    over = gap.difference(shifted, day, [0], seed=0)
    assert over.low < -0.05
    assert over.high > 0.15


@pytest.mark.parametrize("count", [2, 3, 6])
def test_drawn_seeds_scatter_as_the_mean_of_the_seeds_does(count: int) -> None:
    seeds = np.linspace(0.1, 0.3, count)[:, None]
    numbers = tuple(range(count))
    day = gap.Samples(numbers, np.zeros((count, 1)), np.zeros((count, 4000, 1)))
    arm = gap.Samples(numbers, seeds, np.repeat(seeds[:, None], 4000, 1))
    error = np.std(seeds, ddof=1) / np.sqrt(count)
    # Drawing as many seeds as there are would give sqrt(1 - 1 / count) of it.
    assert np.std(gap.difference(arm, day, [0], seed=0).replicates) == pytest.approx(error, rel=0.05)


def test_intervals_hold_the_truth_where_training_scatters_as_the_test_images_do() -> None:
    rng, held, trials = np.random.default_rng(5), 0, 400
    images, replicates, worth = 100, 200, 0.05
    for trial in range(trials):
        draws = gap.draw_images(images, replicates, trial) / images
        easy = rng.normal(0.3, 0.2, images)  # shared by all arms
        arms = []
        for gain in (0.0, worth):
            values = easy + gain + rng.normal(0, 0.01, (3, 1)) + rng.normal(0, 0.1, images)
            arms.append(gap.Samples((0, 1, 2), values.mean(1)[:, None], (values @ draws.T)[:, :, None]))
        over = gap.difference(arms[1], arms[0], [0], trial)
        held += over.low <= worth <= over.high
    assert held / trials >= 0.9


def test_the_share_of_the_gap_lies_in_its_interval_as_often_as_it_says() -> None:
    rng, held, trials = np.random.default_rng(7), 0, 300
    images = 100
    for trial in range(trials):
        draws = gap.draw_images(images, 200, trial) / images
        easy = rng.normal(0.3, 0.2, images)
        arms = []
        for gain in (0.06, 0.0, 0.1):  # 60 % of the gap
            values = easy + gain + rng.normal(0, 0.005, (3, 1)) + rng.normal(0, 0.15, images)
            arms.append(gap.Samples((0, 1, 2), values.mean(1)[:, None], (values @ draws.T)[:, :, None]))
        found = gap.recovered(arms[0], arms[1], arms[2], [0], trial)
        if "value" in found:
            low, high = (found[end] if found[end] is not None else edge for end, edge in (("low", -9), ("high", 9)))
            held += low <= 0.6 <= high
        else:
            trials -= 1
    assert trials > 250
    assert 0.92 < held / trials < 0.99


def test_only_seeds_in_common_are_compared() -> None:
    nothing = np.zeros(100)
    day = samples(np.array([[0.1], [0.9]]), nothing, (0, 7))
    arm = samples(np.array([[0.5], [0.2]]), nothing, (3, 0))
    assert gap.difference(arm, day, [0], seed=0).value == pytest.approx(0.1)
    assert not gap.common_seeds(day, samples(np.array([[0.5]]), nothing, (4,)))


@pytest.mark.parametrize(("top", "why"), [(0.105, "not clearly above"), (-0.2, "below day")])
def test_no_gap_is_not_measurable(top: float, why: str) -> None:
    rng = np.random.default_rng(1)
    day = samples(np.full((1, 1), 0.10), np.zeros(500), (0,))
    ceiling = samples(np.full((1, 1), top), rng.normal(0, 0.01, 500), (0,))
    found = gap.recovered(samples(np.full((1, 1), 0.2), np.zeros(500), (0,)), day, ceiling, [0], seed=0)
    assert list(found) == ["not_measurable"]
    assert why in found["not_measurable"]


def test_a_few_denominators_at_zero_only_widen_the_interval() -> None:
    denominators = np.full(1000, 0.1)
    denominators[:24] = [0.0, -1e-12, *([-0.01] * 22)]  # 2.4%: the gap's own interval stays above 0
    day = samples(np.zeros((1, 1)), np.zeros(1000), (0,))
    ceiling = gap.Samples((0,), np.full((1, 1), 0.1), denominators[None, :, None])
    arm = samples(np.full((1, 1), 0.05), np.zeros(1000), (0,))
    found = gap.recovered(arm, day, ceiling, [0], seed=0)
    assert found == {"value": pytest.approx(0.5), "low": pytest.approx(0.5), "high": pytest.approx(0.5)}
    # Where 10 replicates lie far out at each side, those without a share count as further out still.
    wide = np.full(1000, 0.05)
    wide[24:34], wide[34:44] = -0.05, 0.2
    spread = gap.Samples((0,), np.full((1, 1), 0.05), wide[None, :, None])
    found = gap.recovered(spread, day, ceiling, [0], seed=0)
    assert found == {"value": pytest.approx(0.5), "low": pytest.approx(-0.5), "high": pytest.approx(2.0)}
    denominators[24:40] = -0.01
    assert "not_measurable" in gap.recovered(
        arm, day, gap.Samples((0,), ceiling.point, denominators[None, :, None]), [0], 0
    )


def test_a_class_without_boxes_in_a_draw_is_left_out_of_the_mean() -> None:
    values = np.array([[0.4, np.nan]])
    day = samples(values - 0.1, np.zeros(50), (0,))
    assert gap.difference(samples(values, np.zeros(50), (0,)), day, [0, 1], 0).value == pytest.approx(0.1)
    empty = gap.difference(day, day, [1], 0)
    assert empty.as_dict() == {"value": None, "low": None, "high": None}


def test_drawing_images_equals_evaluating_the_drawn_ones() -> None:
    rng = np.random.default_rng(3)
    images = [{"id": i, "file_name": f"{i}.png", "width": 50, "height": 50} for i in range(1, 9)]
    truth = Truth(("car",), images, [])
    results: list[dict[str, Any]] = []
    for image in images:
        for _ in range(3):
            box = [*rng.uniform(0, 30, 2).tolist(), 12.0, 12.0]
            truth.annotations.append(
                {"id": len(truth.annotations) + 1, "image_id": image["id"], "category_id": 1, "bbox": box,
                 "area": 144.0, "iscrowd": 0}
            )  # fmt: skip
            near = [box[0] + rng.normal(0, 2), box[1], 12.0, 12.0]
            results.append({"image_id": image["id"], "category_id": 1, "bbox": near, "score": float(rng.random())})
    matches = match(truth, results)
    draws = gap.draw_images(8, 30, seed=5)
    assert (draws.sum(axis=1) == 8).all()
    assert (draws == gap.draw_images(8, 30, seed=5)).all()
    assert (draws != gap.draw_images(8, 30, seed=6)).any()
    drawn = gap.drawn_ap(matches, draws)
    assert drawn.shape == (30, 1)
    assert drawn.std() > 0.005
    assert drawn[4, 0] == average_precision(matches, draws[4]).ap[0]
