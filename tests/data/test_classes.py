"""Class names and the words for time of day, in the spellings that datasets use."""

from __future__ import annotations

import pytest

from nightaug.data.classes import (
    ALIASES,
    BDD100K_CLASSES,
    TIME_OF_DAY,
    canonical_class,
    canonical_light,
    canonical_time,
)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("motor", "motorcycle"),
        ("Motorbike", "motorcycle"),
        ("bike", "bicycle"),
        ("person", "pedestrian"),
        (" Car ", "car"),
        ("traffic_light", "traffic light"),
        ("sign", "traffic sign"),
        ("Other Vehicle", "other vehicle"),
    ],
)
def test_class_names(written: str, meant: str) -> None:
    assert canonical_class(written) == meant


def test_the_ten_classes_in_the_published_order() -> None:
    assert BDD100K_CLASSES == (
        "bicycle", "bus", "car", "motorcycle", "pedestrian", "rider", "traffic light", "traffic sign", "train", "truck",
    )  # fmt: skip
    assert set(ALIASES.values()) <= set(BDD100K_CLASSES)
    assert all(canonical_class(name) == name for name in BDD100K_CLASSES)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("daytime", "daytime"),
        ("Day", "daytime"),
        ("night", "night"),
        ("dawn/dusk", "dawn/dusk"),
        ("sunset", "dawn/dusk"),
        ("undefined", None),
        ("", None),
        (None, None),
        ("nightmare", None),
    ],
)
def test_times_of_day(written: str | None, meant: str | None) -> None:
    assert canonical_time(written) == meant


def test_every_time_word_is_one_of_three() -> None:
    assert set(TIME_OF_DAY.values()) == {"daytime", "night", "dawn/dusk"}


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("green", "green"),
        ("G", "green"),
        ("Y", "yellow"),
        ("red", "red"),
        ("none", None),
        ("NA", None),
        ([0, "NA"], None),
        ([1, "G"], "green"),
        (None, None),
        (3, None),
        ([], None),
    ],
)
def test_light_colours(written: object, meant: str | None) -> None:
    assert canonical_light(written) == meant
