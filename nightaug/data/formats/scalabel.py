"""Scalabel's JSON: BDD100K's ``det_20`` lists, and documents with ``"frames"`` such as SHIFT's ``det_2d.json``.

Layout ``list`` is ``[{name, attributes, labels}]``, ``frames`` is ``{"frames": [...], "config": {...}}``. SHIFT's
``timeofday_coarse`` and ``weather_coarse`` are understood and written back; a name that is a URL is its last part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from nightaug.data.classes import canonical_classes
from nightaug.data.formats.base import ImageIndex, LabelSet, Problem, Problems, ordered_classes, safe_name
from nightaug.data.formats.frame_json import FrameStream
from nightaug.data.formats.raw_frames import FrameConverter, read_attributes
from nightaug.data.frames import Box, Frame
from nightaug.data.packed import Keep, pack_frames
from nightaug.data.shelf import change
from nightaug.images import atomic_write_bytes

_LIGHTS = {"red": "R", "yellow": "Y", "green": "G"}


def read(path: Path, images: ImageIndex | None = None, keep: Keep = pack_frames) -> LabelSet:
    """Read a list or document of frames.

    Raises:
        DatasetError: the file cannot be read, is cut off, or holds no frames.
    """
    problems = Problems()
    stream = FrameStream(path, problems)
    frames = keep(stream)
    note_unknown(problems, stream.converter)
    config = stream.config if isinstance(stream.config, dict) else None
    classes = _config_classes(config) or ordered_classes(stream.converter.unknown)
    if config is not None:
        size = config.get("imageSize")
        if isinstance(size, dict) and isinstance(size.get("width"), int) and isinstance(size.get("height"), int):
            width, height = size["width"], size["height"]

            def sized(frame: Frame) -> Frame:
                if frame.width is None and width > 0 and height > 0:
                    frame.width, frame.height = width, height
                return frame

            frames = change(frames, sized)
    meta: dict[str, Any] = {} if config is None else {"config": config}
    if names := stream.converter.categories.own_names(problems):
        meta["names"] = names
    return LabelSet(frames, classes, "scalabel", stream.layout, problems, meta)


def iterate(path: Path, problems: Problems | None = None) -> Iterator[Frame]:
    """The frames as a stream, in little memory."""
    return iter(FrameStream(path, problems))


def _config_classes(config: dict[str, Any] | None) -> tuple[str, ...]:
    categories = (config or {}).get("categories")
    if not isinstance(categories, list):
        return ()
    return canonical_classes(c["name"] for c in categories if isinstance(c, dict) and isinstance(c.get("name"), str))


def note_unknown(problems: Problems, converter: FrameConverter) -> None:
    """Count the categories outside the ten in the problems, one listed line a category."""
    for name, number in sorted(converter.unknown.items()):
        kind = "category outside the ten classes, kept under its own name"
        problems.counts[kind] += number
        problems.listed.append(Problem(kind, name, f"{number} boxes"))


def frame_attributes(frame: Frame) -> dict[str, Any] | None:
    """A frame's ``attributes``: as read, with what has changed since put in."""
    extra = frame.extra or {}
    now = (frame.timeofday, frame.weather, frame.scene)
    if "attributes" in extra:
        original = extra["attributes"]
        if original is None and now == (None, None, None):
            return None
        if isinstance(original, dict):
            value = dict(original)
            was = read_attributes(original)
            if now[0] != was[0]:
                keys = [k for k in ("timeofday", "timeofday_coarse", "timeofday_fine") if k in value]
                for key in keys or ["timeofday"]:
                    value[key] = now[0] or "undefined"
            if now[1] != was[1]:
                value["weather_coarse" if "weather_coarse" in value else "weather"] = now[1] or "undefined"
            if now[2] != was[2]:
                value["scene"] = now[2] or "undefined"
            return value
    return {
        "weather": frame.weather or "undefined",
        "timeofday": frame.timeofday or "undefined",
        "scene": frame.scene or "undefined",
    }


def label_item(
    box: Box,
    light_words: tuple[str, Mapping[str, str]] = ("NA", _LIGHTS),
    names: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """One label as Scalabel writes it.

    Args:
        light_words: the word for "no light", and colour -> word (absent: the colour itself).
        names: canonical class -> the file's own name, where it differs.
    """
    attributes: dict[str, Any] = {}
    if box.occluded is not None:
        attributes["occluded"] = box.occluded
    if box.truncated is not None:
        attributes["truncated"] = box.truncated
    if box.crowd:
        attributes["crowd"] = True
    if box.light_color is not None:
        attributes["trafficLightColor"] = light_words[1].get(box.light_color, box.light_color)
    elif attributes:
        attributes["trafficLightColor"] = light_words[0]
    item: dict[str, Any] = {} if box.id is None else {"id": box.id}
    item["category"] = (names or {}).get(box.category, box.category)
    item["attributes"] = attributes
    item["box2d"] = {"x1": box.x1, "y1": box.y1, "x2": box.x2, "y2": box.y2}
    return item


def frame_item(frame: Frame, labels: list[dict[str, Any]]) -> dict[str, Any]:
    """One frame as both formats write it in a list."""
    extra = frame.extra or {}
    original = extra.get("name")
    # A name that was mended on reading (a URL) is given back, unless the frame has been renamed since.
    name = original if isinstance(original, str) and safe_name(original)[0] == frame.name else frame.name
    item: dict[str, Any] = {"name": name}
    url = extra.get("url")
    if isinstance(url, str) and safe_name(url)[0] == frame.name:
        item["url"] = url
    if frame.video is not None:
        item["videoName"] = frame.video
    item["attributes"] = frame_attributes(frame)
    for key in ("timestamp", "frameIndex", "intrinsics", "extrinsics", "size"):
        if key in extra:
            item[key] = extra[key]
    item["labels"] = labels
    return item


def write_json(path: Path, value: Any) -> None:
    """Compact JSON, atomically."""
    atomic_write_bytes(path, msgspec.json.encode(value))


def write(
    frames: Sequence[Frame],
    out: Path,
    classes: Sequence[str] = (),
    layout: str = "list",
    meta: dict[str, Any] | None = None,
) -> list[Path]:
    """Write frames as a Scalabel list or document.

    Args:
        out: the .json file.
        classes: named in the document's ``config`` where ``meta`` has none.
        layout: ``list`` or ``frames``.
        meta: as read; its ``config`` is written back, and classes under the file's own names.

    Returns:
        The one file written, atomically.
    """
    names = (meta or {}).get("names")
    items = [frame_item(f, [label_item(b, names=names) for b in f.boxes]) for f in frames]
    if layout != "frames":
        write_json(out, items)
        return [out]
    config = (meta or {}).get("config")
    if config is None and classes:
        config = {"categories": [{"name": name} for name in classes]}
    write_json(out, {"frames": items} if config is None else {"frames": items, "config": config})
    return [out]
