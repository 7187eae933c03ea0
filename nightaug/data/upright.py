"""Labels that were drawn on the pixels as stored, turned to the image as nightaug reads it: upright.

A camera held sideways stores its pixels sideways and notes the EXIF orientation; :func:`nightaug.images.read_image`
applies it. Some labelling tools do not, and their boxes then lie elsewhere, many outside the image. What the labels
say about the image's size tells which of the two it was.
"""

from __future__ import annotations

import msgspec

from nightaug.data.frames import Box, Frame
from nightaug.errors import ImageError
from nightaug.images import SIDEWAYS, stored_size


def upright(frame: Frame) -> Frame:
    """The frame with its labels on the upright image: itself, or a copy with turned boxes and upright size.

    A copy is made only where ``frame.width`` x ``frame.height`` is the file's size before its EXIF orientation and
    not the size after it. So images turned upside down or mirrored, and square ones, stay: their labels may be either.
    Opens no more than the file's header, and nothing where path or size is not known.
    """
    if frame.path is None or frame.width is None or frame.height is None or frame.width == frame.height:
        return frame
    try:
        width, height, orientation = stored_size(frame.path)
    except ImageError:
        return frame  # whoever reads the image says so
    if orientation not in SIDEWAYS or (frame.width, frame.height) != (width, height):
        return frame
    return turned(frame, orientation)


def turned(frame: Frame, orientation: int) -> Frame:
    """A copy of a frame of known size whose boxes and size are turned as an EXIF orientation (1 to 8) says."""
    assert frame.width is not None
    assert frame.height is not None
    assert 1 <= orientation <= 8
    width, height = frame.width, frame.height
    boxes = [_turned_box(box, width, height, orientation) for box in frame.boxes]
    if orientation in SIDEWAYS:
        width, height = height, width
    extra = frame.extra
    if extra is not None and isinstance(extra.get("size"), dict):  # what Scalabel's writer gives back
        extra = {**extra, "size": {**extra["size"], "width": width, "height": height}}
    return msgspec.structs.replace(frame, boxes=boxes, width=width, height=height, extra=extra)


def _turned_box(box: Box, width: int, height: int, orientation: int) -> Box:
    x1, y1, x2, y2 = box.xyxy
    # First mirrored within the stored image, then (5 to 8) rows and columns change places.
    if orientation in (2, 3, 7, 8):
        x1, x2 = width - x2, width - x1
    if orientation in (3, 4, 6, 7):
        y1, y2 = height - y2, height - y1
    if orientation in SIDEWAYS:
        x1, y1, x2, y2 = y1, x1, y2, x2
    return msgspec.structs.replace(box, x1=x1, y1=y1, x2=x2, y2=y2)
