"""When an object counts as lost, an image as spoilt, and what is done about it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from nightaug.config import Settings

Mode = Literal["drop", "weigh", "mend"]
Share = Annotated[float, Field(ge=0, le=1)]


class CurateSettings(Settings):
    """Settings of :func:`nightaug.curate.curate.curate`.

    Attributes:
        mode: ``drop``: lost boxes and spoilt images are left out of training. ``weigh``: lost boxes are left out, an
            image counts less with each invented object. ``mend``: lost objects come back, relit from the source, and
            invented ones are painted over; an image that cannot be mended is treated as by ``weigh``.
        lost_below: an object with ``kept`` under this is lost.
        moved_above: one that has ``moved`` further than this is lost too, as its box no longer fits.
        min_object, min_lamp: detections and lamps outside every box count as invented from this score on; the scores
            hold none under their judge's own threshold, so that 0 takes all that were counted there.
        max_invented: ``drop``: an image with more invented objects than this is dropped.
        max_lost: ``drop``: an image of whose measured boxes a larger share is lost is dropped as a whole.
        invented_cost: ``weigh``: each invented object takes this share off the image's weight.
        min_weight: ``weigh``: no image counts less than this.
        min_night: images which the day/night classifier gives less than this are dropped, in every mode; 0: none are.
        max_class_share: at most this share of a class's boxes is dropped; the best-scored are kept, with their images.
        max_mended_area: ``mend``: an image in which lost objects cover a larger share is not mended.
    """

    mode: Mode = "drop"
    lost_below: Share = 0.35
    moved_above: Share = 0.6
    min_object: Share = 0.0
    min_lamp: Share = 0.5
    max_invented: Annotated[int, Field(ge=0)] = 2
    max_lost: Share = 0.75
    invented_cost: Share = 0.25
    min_weight: Annotated[float, Field(gt=0, le=1)] = 0.1
    min_night: Share = 0.0
    max_class_share: Share = 0.5
    max_mended_area: Share = 0.5
