"""Which file names are masks, lane files and the like of another image; see companions.py for what becomes of them."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable

# fmt: off
_WORDS = (
    "mask", "masks", "lane", "lanes", "drivable", "depth", "seg", "semseg", "sem_seg", "segmentation", "semantic",
    "instance", "instances", "insseg", "panoptic", "label_ids", "labelids", "train_id", "train_ids", "color", "colour",
    "drivable_id", "drivable_color", "flow",
)
#: Folders that hold nothing but companions.
FOLDERS = frozenset({
    "lane", "lanes", "drivable", "sem_seg", "semseg", "ins_seg", "insseg", "pan_seg", "panoptic", "mask", "masks",
    "bitmasks", "colormaps", "polygons", "rles", "depth", "segmentation", "SegmentationClass", "SegmentationObject",
    "flow",
})
# fmt: on
_SUFFIX = re.compile(r"[_.](?:" + "|".join(sorted(_WORDS, key=len, reverse=True)) + r")$", re.IGNORECASE)


def base_stem(stem: str) -> str:
    """``x_mask`` -> ``x``; a stem without such a word stays."""
    return _SUFFIX.sub("", stem)


def is_companion(name: str, stems: Collection[str]) -> bool:
    """True for an image that is another image's mask, given all images' stems (relative, no ending; best a set)."""
    stem = os.path.splitext(name)[0]
    base = base_stem(stem)
    if base != stem and base in stems:
        return True
    return not FOLDERS.isdisjoint(name.split("/")[:-1])


def without_companions(names: Iterable[str], among: Iterable[str] | None = None) -> list[str]:
    """The images of ``names`` that are nobody's mask.

    Args:
        names: image files, relative to their folder.
        among: all images there, where ``names`` are but some of them.
    """
    names = list(names)
    # Only of the few names that end as a mask's does it matter whether their image is there.
    bases = {base for stem in (os.path.splitext(name)[0] for name in names) if (base := base_stem(stem)) != stem}
    stems: set[str] = set()
    if bases:
        stems = bases.intersection(os.path.splitext(name)[0] for name in (names if among is None else among))
    return [name for name in names if not is_companion(name, stems)]
