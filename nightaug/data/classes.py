"""Class lists, their aliases, and the words the datasets use for time of day, weather and scene."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from nightaug.data.text import plain

#: The ten detection classes of BDD100K, alphabetical, the order used everywhere in nightaug
#: (METHODS 1: bicycle, bus, car, motorcycle, pedestrian, rider, traffic light, traffic sign, train, truck).
BDD100K_CLASSES: tuple[str, ...] = (
    "bicycle",
    "bus",
    "car",
    "motorcycle",
    "pedestrian",
    "rider",
    "traffic light",
    "traffic sign",
    "train",
    "truck",
)

#: Other names of the same classes, as BDD100K (old and new), SHIFT, FLIR, COCO and VOC write them.
ALIASES: dict[str, str] = {
    "bike": "bicycle",
    "motor": "motorcycle",
    "motorbike": "motorcycle",
    "person": "pedestrian",
    "people": "pedestrian",
    "light": "traffic light",
    "traffic_light": "traffic light",
    "trafficlight": "traffic light",
    "sign": "traffic sign",
    "traffic_sign": "traffic sign",
    "trafficsign": "traffic sign",
    "street sign": "traffic sign",
}

#: Which way an image is translated.
Direction = Literal["day2night", "night2day"]

DAY = "daytime"
NIGHT = "night"
DUSK = "dawn/dusk"
#: Time of day of the images a translation takes, and of those it makes.
SOURCE_TIME: dict[Direction, str] = {"day2night": DAY, "night2day": NIGHT}
TARGET_TIME: dict[Direction, str] = {"day2night": NIGHT, "night2day": DAY}

#: What label files write for the time of day -> BDD100K's word; what is not here is undefined (None).
TIME_OF_DAY: dict[str, str] = {
    "daytime": DAY,
    "day": DAY,
    "noon": DAY,
    "morning": DAY,
    "afternoon": DAY,
    "night": NIGHT,
    "nighttime": NIGHT,
    "midnight": NIGHT,
    "dawn/dusk": DUSK,
    "dawn": DUSK,
    "dusk": DUSK,
    "sunrise": DUSK,
    "sunset": DUSK,
    "sunrise/sunset": DUSK,
    "twilight": DUSK,
}


def canonical_class(name: str) -> str:
    """The canonical spelling of a class name: lower case, aliases resolved, in one line; unknown names stay."""
    key = plain(name).strip().lower() or "unnamed"  # an empty line of classes.txt would shift the numbers
    return ALIASES.get(key, key)


def canonical_classes(names: Iterable[str]) -> tuple[str, ...]:
    """Canonical names in their order, each once."""
    return tuple(dict.fromkeys(map(canonical_class, names)))


def canonical_time(word: str | None) -> str | None:
    """``"daytime"``, ``"night"``, ``"dawn/dusk"``, or None where the word is missing or unknown."""
    if word is None:
        return None
    return TIME_OF_DAY.get(word.strip().lower())


#: Traffic-light colours as BDD100K's files write them, in all layouts.
LIGHT_COLORS: dict[str, str] = {
    "red": "red",
    "r": "red",
    "yellow": "yellow",
    "y": "yellow",
    "green": "green",
    "g": "green",
}


def canonical_light(value: object) -> str | None:
    """``"red"``, ``"yellow"``, ``"green"`` or None; takes text or BDD100K's ``[0, "NA"]`` pair."""
    if isinstance(value, (list, tuple)):
        value = next((v for v in value if isinstance(v, str)), None)
    if not isinstance(value, str):
        return None
    return LIGHT_COLORS.get(value.strip().lower())
