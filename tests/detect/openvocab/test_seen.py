from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from openvocab_toys import seeded

from nightaug.data.frames import Frame
from nightaug.detect.openvocab.features import Chosen
from nightaug.detect.openvocab.seen import domain_of, seen_regions
from nightaug.detect.openvocab.settings import VLDUSSettings

TRUTH = np.array([[0, 0, 100, 100], [200, 0, 300, 100]], float)


def regions(proposals: Any, weights: tuple[float, float] = (1, 1), clip: Any = None, **settings: Any) -> Chosen:
    own = VLDUSSettings(**settings)
    labels = np.array([4, 2])
    return seen_regions(np.array(proposals, float), TRUTH, labels, np.array(weights), own, seeded(), clip)


def test_objects_background_and_what_is_neither() -> None:
    proposals = [
        [0, 0, 100, 61],  # IoU .61 with the first: an object
        [0, 0, 100, 50],  # .5: neither
        [0, 0, 100, 29],  # .29: background
        [200, 0, 300, 100],  # the second one itself
        [400, 400, 500, 500],  # nothing
    ]
    found = regions(proposals)
    assert found.labels.tolist() == [4, 2, -1, -1]
    assert found.boxes.tolist() == [proposals[at] for at in (0, 3, 2, 4)]


def test_a_place_of_weight_0_is_neither_object_nor_background() -> None:
    # A small box inside a crowd overlaps it by next to nothing.
    assert regions([[0, 0, 100, 100], [10, 10, 30, 30], [150, 0, 190, 40]], weights=(0, 1)).labels.tolist() == [-1]


def test_embeddings_stay_with_their_proposals() -> None:
    clip = np.arange(6).reshape(3, 2)
    found = regions([[400, 400, 420, 420], [0, 0, 100, 100], [0, 0, 100, 50]], clip=clip)
    assert found.labels.tolist() == [4, -1]
    assert found.clip.tolist() == [[2, 3], [0, 1]]


def test_at_most_so_many_drawn_by_chance_alone() -> None:
    many = [[0, 0, 100, 90 + 0.1 * n] for n in range(50)] + [[400, 400, 410 + n, 420] for n in range(50)]
    first, second = (regions(many, objects=7, backgrounds=5) for _ in range(2))
    assert first.labels.tolist() == [4] * 7 + [-1] * 5
    assert np.array_equal(first.boxes, second.boxes)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_images_without_objects_or_proposals(count: int) -> None:
    none = seen_regions(
        np.full((count, 4), [0, 0, 9, 9]), np.zeros((0, 4)), np.zeros(0, int), np.zeros(0), VLDUSSettings(), seeded()
    )
    assert none.labels.tolist() == [-1] * count
    assert regions(np.zeros((0, 4))).boxes.shape == (0, 4)


def test_time_of_day_is_a_domain() -> None:
    assert [domain_of(Frame("a", timeofday=time)) for time in ("daytime", "night", "dawn/dusk", None)] == [0, 1, -1, -1]
