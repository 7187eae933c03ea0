"""Typed pieces of BDD100K's and Scalabel's JSON, and how they become frames.

Two ways lead to the same frames: the quick one from msgspec structs, and a slow one from plain JSON values for
what does not fit the types (text for a number, a missing category, ``NaN``); it keeps what is sound.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from nightaug.data.classes import BDD100K_CLASSES, canonical_class, canonical_light, canonical_time
from nightaug.data.formats.base import (
    MAX_COORDINATE,
    SECOND_NAME,
    Problems,
    plausible,
    safe_name,
    shown,
    why_implausible,
)
from nightaug.data.frames import Box, Frame
from nightaug.data.text import plain

#: Keys of a frame that are kept in ``Frame.extra`` and written back.
KEPT_KEYS = ("url", "timestamp", "frameIndex", "intrinsics", "extrinsics", "size")
#: The kind of problem a lane or an area counts as.
NO_BOX = "label without a box (lane, area, mask)"
_PLAIN_TIMES = ("daytime", "night", "dawn/dusk", "undefined")
_PLAIN_ATTRIBUTES = frozenset({"weather", "scene", "timeofday"})
_UNDEFINED = frozenset({"", "undefined", "unknown", "none", "na", "n/a"})


class RawBox(msgspec.Struct, gc=False):
    x1: float
    y1: float
    x2: float
    y2: float


class RawLabelAttributes(msgspec.Struct, gc=False):
    occluded: bool | None = None
    truncated: bool | None = None
    light: str | list[Any] | None = msgspec.field(name="trafficLightColor", default=None)
    crowd: bool | None = None
    occluded_capital: bool | None = msgspec.field(name="Occluded", default=None)
    truncated_capital: bool | None = msgspec.field(name="Truncated", default=None)


class RawLabel(msgspec.Struct, gc=False):
    category: str
    box2d: RawBox | None = None
    attributes: RawLabelAttributes | None = None
    id: int | str | None = None


class RawFrame(msgspec.Struct, gc=False):
    name: str
    labels: list[RawLabel] | None = None
    attributes: dict[str, Any] | msgspec.UnsetType | None = msgspec.UNSET
    video: str | None = msgspec.field(name="videoName", default=None)
    url: str | None = None
    timestamp: int | float | str | None = None
    frameIndex: int | None = None
    intrinsics: Any = None
    extrinsics: Any = None
    size: Any = None


class Categories(dict[str, str]):
    """Category as written -> canonical; remembers which ones are none of the ten."""

    def __init__(self) -> None:
        super().__init__()
        self.unknown: set[str] = set()

    def __missing__(self, word: str) -> str:
        name = canonical_class(word)
        if name not in BDD100K_CLASSES:
            self.unknown.add(name)
        self[word] = name
        return name

    def own_names(self, problems: Problems) -> dict[str, str]:
        """Canonical name -> as the file writes it, if that differs; of several spellings the first and a problem."""
        first: dict[str, str] = {}
        for word, name in self.items():
            if first.setdefault(name, word) != word:
                problems.add(SECOND_NAME, shown(word), f"{first[name]} is the same class, and what would be written")
        return {name: word for name, word in first.items() if name != word}


class Lights(dict[str, str | None]):
    """Traffic-light colour as written -> canonical, None for what is no colour (``"none"``, ``"NA"``)."""

    def __missing__(self, word: str) -> str | None:
        self[word] = colour = canonical_light(word)
        return colour


class FrameConverter:
    """Typed or plain JSON frames to :class:`Frame`.

    ``unknown`` counts the boxes of every category outside the ten; such boxes are kept under their own name.

    Args:
        problems: where skipped things are counted.
        source: the label file, for messages.
    """

    def __init__(self, problems: Problems, source: str) -> None:
        self.problems = problems
        self.source = source
        self.unknown: Counter[str] = Counter()
        self.categories = Categories()
        self.lights = Lights()

    def typed(self, raws: list[RawFrame]) -> list[Frame]:
        """Typed structs to frames. This loop runs once a box, 1.3 million times for BDD100K: hence its look."""
        frames: list[Frame] = []
        categories = self.categories
        low, high = -MAX_COORDINATE, MAX_COORDINATE
        lights = self.lights
        for raw in raws:
            frame = self._frame(raw)
            if frame is None:
                continue
            boxes: list[Box] = []
            for label in raw.labels or ():
                b = label.box2d
                if b is None:
                    self.problems.counts[NO_BOX] += 1
                    continue
                x1, y1, x2, y2 = b.x1, b.y1, b.x2, b.y2
                if not (low < x1 < x2 < high and low < y1 < y2 < high):
                    self.problems.add(why_implausible(x1, y1, x2, y2), shown(raw.name), f"{x1:g},{y1:g},{x2:g},{y2:g}")
                    continue
                a = label.attributes
                if a is None:
                    box = Box(x1, y1, x2, y2, categories[label.category])
                else:
                    word = a.light
                    light = None if word is None else lights[word] if type(word) is str else canonical_light(word)
                    occluded, truncated = a.occluded, a.truncated
                    if occluded is None:
                        occluded = a.occluded_capital
                    if truncated is None:
                        truncated = a.truncated_capital
                    # Setting the rare fields afterwards is quicker than passing all eleven.
                    box = Box(x1, y1, x2, y2, categories[label.category], light, occluded, truncated)
                    if a.crowd:
                        box.crowd = True
                identity = label.id
                if identity is not None:
                    box.id = identity if type(identity) is str else f"{identity}"
                boxes.append(box)
            frame.boxes = boxes
            frames.append(frame)
        self._count_unknown(frames)
        return frames

    def _frame(self, raw: RawFrame) -> Frame | None:
        name, reason = safe_name(raw.name)
        if reason:
            self.problems.add("unsafe image name refused", shown(raw.name), reason)
            return None
        extra: dict[str, Any] = {}
        for key in KEPT_KEYS:
            value = getattr(raw, key)
            if value is not None:
                extra[key] = value
        if name != raw.name:
            extra["name"] = raw.name
        attributes = raw.attributes
        timeofday = weather = scene = None
        if attributes is None:
            extra["attributes"] = None
        elif attributes is not msgspec.UNSET:
            timeofday, weather, scene, plain = read_attributes(attributes)
            if not plain:
                extra["attributes"] = attributes
        width, height = _size(raw.size)
        video = raw.video or None
        if video is not None:
            video, reason = safe_name(video)
            if reason:
                self.problems.add("unsafe image name refused", shown(raw.name), f"videoName: {reason}")
                return None
        return Frame(name, [], width, height, timeofday, weather, scene, video, None, extra or None)

    def loose(self, items: Any) -> list[Frame]:
        """The slow path: plain JSON values, of which what is sound is kept."""
        frames: list[Frame] = []
        for item in items if isinstance(items, list) else ():
            if not isinstance(item, dict) or not isinstance(item.get("name"), str):
                self.problems.add("frame without a name skipped", self.source, shown(item, 60))
                continue
            values = {"video": "videoName", **{key: key for key in KEPT_KEYS}}
            raw = RawFrame(name=item["name"], **{k: item.get(source) for k, source in values.items()})
            if not isinstance(raw.video, str):
                raw.video = None
            if "attributes" in item:
                raw.attributes = item["attributes"] if isinstance(item["attributes"], dict) else None
            frame = self._frame(raw)
            if frame is None:
                continue
            labels = item.get("labels")
            frame.boxes = loose_boxes(labels, frame.name, self.problems, self.categories)
            frames.append(frame)
        self._count_unknown(frames)
        return frames

    def _count_unknown(self, frames: list[Frame]) -> None:
        unknown = self.categories.unknown
        if unknown:
            for frame in frames:
                for box in frame.boxes:
                    if box.category in unknown:
                        self.unknown[box.category] += 1


def loose_boxes(labels: Any, name: str, problems: Problems, categories: Categories) -> list[Box]:
    """The sound labels of a plain JSON list; the others are counted in ``problems``."""
    boxes: list[Box] = []
    if not isinstance(labels, list):
        if labels is not None:
            problems.add("labels are not a list", shown(name), shown(labels, 60))
        return boxes
    for label in labels:
        if not isinstance(label, dict) or not isinstance(label.get("category"), str):
            problems.add("label without a category skipped", shown(name), shown(label, 60))
            continue
        raw_box = label.get("box2d")
        if raw_box is None:
            problems.count(NO_BOX)
            continue
        try:
            x1, y1, x2, y2 = (float(raw_box[key]) for key in ("x1", "y1", "x2", "y2"))
        except (TypeError, ValueError, KeyError, IndexError, OverflowError):
            problems.add("box without four numbers skipped", shown(name), shown(raw_box, 60))
            continue
        if not plausible(x1, y1, x2, y2):
            problems.add(why_implausible(x1, y1, x2, y2), shown(name), f"{x1:g},{y1:g},{x2:g},{y2:g}")
            continue
        a = label.get("attributes")
        a = a if isinstance(a, dict) else {}
        identity = label.get("id")
        boxes.append(
            Box(
                x1,
                y1,
                x2,
                y2,
                categories[label["category"]],
                canonical_light(a.get("trafficLightColor")),
                _flag(a.get("occluded", a.get("Occluded"))),
                _flag(a.get("truncated", a.get("Truncated"))),
                a.get("crowd") is True,
                1.0,
                None if identity is None else str(identity)[:200],
            )
        )
    return boxes


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _size(value: Any) -> tuple[int | None, int | None]:
    if isinstance(value, dict):
        width, height = value.get("width"), value.get("height")
        if isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0:
            return width, height
    return None, None


def _word(value: object) -> str | None:
    if not isinstance(value, str) or value.strip().lower() in _UNDEFINED:
        return None
    return plain(value)


def read_attributes(a: dict[str, Any]) -> tuple[str | None, str | None, str | None, bool]:
    """``(timeofday, weather, scene, plain)``; ``plain`` is True where these three say all that ``a`` says.

    SHIFT's ``timeofday_coarse`` and ``weather_coarse`` are taken where the plain keys are missing.
    """
    time_word = a.get("timeofday", a.get("timeofday_coarse"))
    timeofday = canonical_time(time_word) if isinstance(time_word, str) else None
    weather = _word(a.get("weather", a.get("weather_coarse")))
    scene = _word(a.get("scene"))
    plain = (
        len(a) == 3
        and _PLAIN_ATTRIBUTES.issuperset(a)
        and time_word in _PLAIN_TIMES
        and (weather is not None or a["weather"] == "undefined")
        and (scene is not None or a["scene"] == "undefined")
    )
    return timeofday, weather, scene, plain
