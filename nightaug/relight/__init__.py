"""The training-free night renderer: labelled day photographs in, night frames out, every box still true.

``relight(image, boxes, seed=..., strength=...)`` takes and gives uint8 RGB of the same size. It only ever
darkens what was there and adds lamps *inside labelled boxes*, so a translation cannot invent an object (unless
``settings`` ask for the lamps, far lights and windows of a street, which belong to no label and lie in no box).
It goes one way, day to night: asking it for day is the caller's error to report.
"""

from nightaug.data.results import LOOK
from nightaug.relight.render import relight
from nightaug.relight.settings import Range, RelightSettings, relight_settings

__all__ = ["LOOK", "Range", "RelightSettings", "relight", "relight_settings"]
