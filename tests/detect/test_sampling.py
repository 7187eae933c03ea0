from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from nightaug.data.frames import Box, Frame
from nightaug.detect.sampling import Mixture, Source, repeats
from nightaug.errors import ConfigError


def frames(count: int, kind: str = "car") -> list[Frame]:
    return [Frame(f"{kind}{n}.jpg", [Box(0, 0, 5, 5, kind)]) for n in range(count)]


def test_two_equal_sources_give_half_of_every_batch() -> None:
    mixture = Mixture([Source("day", frames(7)), Source("night", frames(300))], seed=3)
    for step in range(200):
        drawn = Counter(mixture.draw(step * 8 + at)[0] for at in range(8))
        assert drawn == {0: 4, 1: 4}


@pytest.mark.parametrize("weights", [(3.0, 1.0), (0.2, 0.3, 0.5), (1.0, 1.0, 1.0)])
def test_shares_are_the_weights(weights: tuple[float, ...]) -> None:
    mixture = Mixture([Source(str(n), frames(5), w) for n, w in enumerate(weights)], seed=0)
    drawn = Counter(mixture.draw(i)[0] for i in range(2520 * 3))
    for number, weight in enumerate(weights):
        assert drawn[number] / (2520 * 3) == pytest.approx(weight / sum(weights), abs=1e-3)


def test_every_frame_comes_once_a_pass_and_in_a_new_order_each_time() -> None:
    mixture = Mixture([Source("a", frames(11)), Source("b", frames(40))], seed=1)
    own = [at for number, at in map(mixture.draw, range(66)) if number == 0]
    passes = [own[n * 11 : n * 11 + 11] for n in range(3)]
    assert all(sorted(one) == list(range(11)) for one in passes)
    assert passes[0] != passes[1]


def test_a_sample_does_not_depend_on_what_was_drawn_before() -> None:
    sources = [Source("a", frames(9)), Source("b", frames(14), 0.5)]
    in_order = [Mixture(sources, 4).draw(i) for i in range(0, 3000, 7)]
    backwards = Mixture(sources, 4)
    assert [backwards.draw(i) for i in reversed(range(0, 3000, 7))] == in_order[::-1]


def test_seeds_give_other_orders() -> None:
    first, second = (Mixture([Source("a", frames(30))], seed) for seed in (0, 1))
    assert [first.draw(i) for i in range(30)] != [second.draw(i) for i in range(30)]


def test_an_empty_source_and_no_source_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="'nights' holds no labelled images"):
        Mixture([Source("days", frames(2)), Source("nights", [])], 0)
    with pytest.raises(ConfigError, match="no training data"):
        Mixture([Source("days", frames(2), 0.0)], 0)


def test_rare_classes_repeat_as_in_the_paper() -> None:
    many = [*frames(98), *frames(2, "train")]
    factors = repeats(many, 0.08)
    assert factors[:98] == pytest.approx(1.0)
    assert factors[98:] == pytest.approx(2.0)  # sqrt(0.08 / 0.02)
    drawn = Counter(Mixture([Source("a", many)], 0, balance=0.08).draw(i)[1] >= 98 for i in range(102))
    assert drawn[True] == 4


def test_images_without_boxes_are_kept() -> None:
    factors = repeats([*frames(3), Frame("empty.jpg")], 0.5)
    assert factors[3] == 1.0
    mixture = Mixture([Source("a", [*frames(3), Frame("empty.jpg")])], 0, balance=0.5)
    assert 3 in {mixture.draw(i)[1] for i in range(4)}


def test_an_epoch_shows_every_source_once() -> None:
    mixture = Mixture([Source("a", frames(10)), Source("b", frames(3))], 0)
    assert len(mixture) == 20
    seen = {mixture.draw(i) for i in range(len(mixture))}
    assert {at for number, at in seen if number == 0} == set(range(10))
    assert np.all([at in {a for n, a in seen if n == 1} for at in range(3)])


def test_a_weight_that_would_never_be_drawn_is_refused() -> None:
    with pytest.raises(ConfigError, match="'rare' would never be drawn"):
        Mixture([Source("most", frames(5)), Source("rare", frames(5), 1e-4)], seed=0)


def test_balance_is_about_the_trained_classes_only() -> None:
    given = [*frames(20), *frames(1, "rider")]
    assert repeats(given, 0.5)[-1] > 3
    assert repeats(given, 0.5, ("car",)).tolist() == [1.0] * 21
    assert len(Mixture([Source("a", given)], 0, 0.5, ("car",))) == 21
