"""Frame and Box: what every reader gives and every writer takes.

Plain msgspec structs, kept out of the garbage collector: a full BDD100K is 1.3 million boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec


class Box(msgspec.Struct, array_like=True, gc=False):
    """One labelled object.

    Attributes:
        x1, y1, x2, y2: corners in pixels of the original image; right and bottom exclusive.
        category: canonical class name (see :mod:`nightaug.data.classes`).
        light_color: ``"red"``, ``"yellow"``, ``"green"`` or None (not a light, or not known).
        occluded, truncated: as labelled, None where the format does not say.
        crowd: a group of objects in one box (COCO ``iscrowd``); never a training target.
        weight: in [0, 1], how far this label is trusted; 1 for labels made by people.
        id: the label's own id in its source file, as text, None where there is none.
        source_category: place of the label's own class in the source's list (``LabelSet.meta["categories"]``) where
            several classes of that list are one here (``pedestrian``, ``person``) and it is not their first; else None.
    """

    x1: float
    y1: float
    x2: float
    y2: float
    category: str
    light_color: str | None = None
    occluded: bool | None = None
    truncated: bool | None = None
    crowd: bool = False
    weight: float = 1.0
    id: str | None = None
    source_category: int | None = None

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        return (self.x1, self.y1, self.x2, self.y2)


def lit_by(box: Box) -> tuple[Any, ...]:
    """What :func:`nightaug.relight.relight` looks at of a label: boxes that agree in it are lit alike."""
    more = (bool(box.occluded), bool(box.crowd))
    return (box.xyxy, box.category, box.light_color, *(more if any(more) else ()))


class Frame(msgspec.Struct, gc=False):
    """One image with its labels.

    Attributes:
        name: file name relative to the image root, with forward slashes.
        boxes: the objects; an empty list is a frame without objects, and is kept. As read from a file they are packed
            (packed.py): give the frame a new list to change them.
        width, height: pixels of the original image, None until known (some formats do not say).
        timeofday: ``"daytime"``, ``"night"``, ``"dawn/dusk"`` or None (undefined).
        weather, scene: the dataset's own words, None where undefined.
        video: the drive or sequence the frame belongs to, None where the format does not say.
        path: the image file, once it has been found.
        extra: attributes nightaug does not use but writes back (SHIFT's town, timestamps, ...).
    """

    name: str
    boxes: Sequence[Box] = msgspec.field(default_factory=list)
    width: int | None = None
    height: int | None = None
    timeofday: str | None = None
    weather: str | None = None
    scene: str | None = None
    video: str | None = None
    path: Path | None = None
    extra: dict[str, Any] | None = None
