"""Looking at the images once: can they be read, how large are they, and do they look like their tag.

A wrongly tagged night is found by brightness, measured on the upper third (sky, lamps above the street; the road
below is lit by the car itself). Cameras differ: a sensitive one makes nights as bright as another's dusk. So the
limits come from the dataset's own two groups, their medians and spreads, and fixed limits serve only where a
group is too small to have any.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps

from nightaug.errors import ImageError
from nightaug.images import image_size, read_image

#: A frame is suspicious beyond this share of the way from its group's median to the other group's ...
GAP_SHARE = 0.6
#: ... if that is also more than this many standard deviations (from the median deviation) off its own.
DEVIATIONS = 2.5
#: Fewer frames than this have no median worth the name; then these fixed limits (luma 0 to 255) serve.
MIN_GROUP = 8
FIXED_NIGHT_LIMIT = 90.0
FIXED_DAY_LIMIT = 45.0
#: Medians closer than this say that the two groups cannot be told apart by brightness.
MIN_GAP = 10.0
#: JPEG decodes to an eighth of the size several times faster than to the whole.
SHRINK = 8


class Look(NamedTuple):
    """What one look at an image gave: pixels, brightness in luma 0 to 255; or why it cannot be used.

    ``size`` (bytes) and ``modified`` (nanoseconds) are the file's, to tell whether a saved look still holds.
    """

    width: int
    height: int
    luma: float | None
    luma_top: float | None
    error: str = ""
    size: int = 0
    modified: int = 0


class Limits(NamedTuple):
    """Brightness of the upper third: a night above ``night`` or a day below ``day`` is suspicious.

    ``basis`` is ``"groups"``, ``"fixed"``, or ``"none"`` where the groups do not differ.
    """

    night: float
    day: float
    basis: str


def look(path: Path, brightness: bool = True) -> Look:
    """Size after EXIF orientation, and mean luma of the image and of its upper third. Never raises for a bad image.

    With ``brightness`` the whole file is decoded (small), so a cut-off file shows here.
    """
    try:
        state = os.stat(path)
        width, height = image_size(path)
        if not brightness:
            return Look(width, height, None, None, "", state.st_size, state.st_mtime_ns)
        with Image.open(path) as image:
            # Grey files of 16 bit have a scale of their own, and TIFF an own way to be upright: one place knows both.
            special = image.mode.startswith("I") or image.mode == "F" or image.format == "TIFF"
            image.draft("L", (max(1, image.size[0] // SHRINK), max(1, image.size[1] // SHRINK)))
            grey = Image.fromarray(read_image(path)).convert("L") if special else image.convert("L")
            if special:
                width, height = grey.size
            elif image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
                grey.getexif()[ExifTags.Base.Orientation] = image.getexif()[ExifTags.Base.Orientation]
                grey = ImageOps.exif_transpose(grey)
            values = np.asarray(grey)
    except (OSError, SyntaxError, ValueError, TypeError, EOFError, MemoryError, struct.error, ImageError) as error:
        # What Pillow raises on damaged files.
        return Look(0, 0, None, None, str(error) or type(error).__name__)
    top = values[: max(1, values.shape[0] // 3)]
    mean, top_mean = round(float(values.mean()), 2), round(float(top.mean()), 2)
    return Look(width, height, mean, top_mean, "", state.st_size, state.st_mtime_ns)


class Looker:
    """:func:`look` at many images in threads (decoding releases Python's lock), some at a time; to be closed.

    Attributes:
        batch: as many as keep the threads busy, and are soon done.
    """

    def __init__(self, brightness: bool = True, workers: int | None = None) -> None:
        workers = workers or min(16, (os.cpu_count() or 1) * 2)
        self.batch = 64 * workers
        self._brightness = brightness
        self._pool = ThreadPoolExecutor(workers)

    def __call__(self, paths: Iterable[Path]) -> list[Look]:
        """What is seen, in the order given."""
        return list(self._pool.map(lambda path: look(path, self._brightness), paths))

    def __enter__(self) -> Looker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pool.shutdown()


def brightness_limits(day: Sequence[float], night: Sequence[float]) -> Limits:
    """Limits for the upper third's luma, from the frames tagged day and those tagged night.

    ``median_night + max(0.6 gap, 2.5 sigma)`` and the mirror image for day, ``gap`` the distance of the medians and
    ``sigma`` 1.4826 times the median absolute deviation of the group: neither moves much when some tags are wrong.
    """
    if len(day) < MIN_GROUP or len(night) < MIN_GROUP:
        return Limits(FIXED_NIGHT_LIMIT, FIXED_DAY_LIMIT, "fixed")
    middle_day, middle_night = float(np.median(day)), float(np.median(night))
    gap = middle_day - middle_night
    if gap < MIN_GAP:
        return Limits(float("inf"), float("-inf"), "none")
    spread_day = 1.4826 * float(np.median(np.abs(np.asarray(day) - middle_day)))
    spread_night = 1.4826 * float(np.median(np.abs(np.asarray(night) - middle_night)))
    return Limits(
        middle_night + max(GAP_SHARE * gap, DEVIATIONS * spread_night),
        middle_day - max(GAP_SHARE * gap, DEVIATIONS * spread_day),
        "groups",
    )
