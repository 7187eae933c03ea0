"""Day to night as a step of other people's training pipelines: albumentations, torchvision v2, ultralytics.

``DayToNight`` knows no framework; its methods ``albumentations()``, ``torchvision()`` and ``ultralytics()`` give the
step that fits each of them. Importing this imports none of them.
"""

from nightaug.transforms.core import DayToNight
from nightaug.transforms.draws import Draw

__all__ = ["DayToNight", "Draw"]
