"""The file that says what a translation did to every labelled object: written by scoring, read by curating.

Three words (METHODS of the project, section 7): an object is *kept* when it is still there after the translation, it
has *moved* when its box no longer fits, and an image shows *invented* objects where no label knows of any.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import msgspec

from nightaug.errors import DatasetError
from nightaug.images import atomic_write_bytes


class BoxScore(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One labelled object before and after. None: could not be measured (no judge, no CLIP, too small).

    Attributes:
        index: place in the frame's list of boxes, from 0: the number ``dropped_boxes`` of a manifest uses.
        category: canonical class.
        xyxy: pixels of the image.
        found_day, found_night: best score in [0, 1] of the judge's detections of this class that overlap the box by an
            IoU of 0.5 or more, in the source and in the translation; 0 where there is none.
        clip_day, clip_night: CLIP's probability of the class among the set's classes, in [0, 1].
        similarity: cosine of CLIP's embeddings of the box before and after, in [-1, 1].
        structure: agreement of the box's edges before and after, in [0, 1]; 1 is the same drawing.
        moved: 1 - IoU of the judge's two boxes of the object, in [0, 1]; None unless it found both.
        kept: in [0, 1], what the measures that there are say together; 1 is wholly there.
    """

    index: int
    category: str
    xyxy: tuple[float, float, float, float]
    found_day: float | None = None
    found_night: float | None = None
    clip_day: float | None = None
    clip_night: float | None = None
    similarity: float | None = None
    structure: float | None = None
    moved: float | None = None
    kept: float | None = None


class Invented(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Something a translation shows and no label knows.

    Attributes:
        kind: ``object``, a detection of the judge, or ``lamp``, a bright spot that the source does not have.
        category: class of an object, None for a lamp.
        xyxy: pixels of the image.
        score: of the detection in [0, 1]; of a lamp, its peak in [0, 1] of white.
    """

    kind: Literal["object", "lamp"]
    category: str | None = None
    xyxy: tuple[float, float, float, float]
    score: float


class ImageScore(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One translated image.

    Attributes:
        output, source: as in the translated folder's manifest.
        sha256: of the translated file when it was scored.
        boxes: its labelled objects; crowds are left out.
        invented: see :class:`Invented`.
        doubted: classes of what the judge newly sees in a dim copy of the source, in which nothing was invented.
        night: the day/night classifier's probability of night in [0, 1]; None without one.
        structure: agreement of the whole image's edges before and after, in [0, 1].
        false_detections: detections of the judge that no label explains, those of things that stand in the source,
            too, counted; None without judge or labels.
        spots: lamp-like spots outside the boxes, also those the source shows.
    """

    output: str
    source: str
    sha256: str
    boxes: list[BoxScore] = msgspec.field(default_factory=list)
    invented: list[Invented] = msgspec.field(default_factory=list)
    doubted: list[str] = msgspec.field(default_factory=list)
    night: float | None = None
    structure: float | None = None
    false_detections: int | None = None
    spots: int | None = None


class TranslationScores(msgspec.Struct, kw_only=True):
    """A scored translation.

    Attributes:
        nightaug: version that wrote it.
        source, translated: folders, absolute, so that the file can be used from anywhere.
        settings: everything the numbers depend on: judge (name, sha), CLIP, features, thresholds.
        summary: numbers of the whole set, by name (kept, moved and invented by class, FID, KID, CMMD, night, ...).
        images: in the manifest's order.
        failed: images that could not be read, by name, with the reason.
    """

    nightaug: str
    source: str
    translated: str
    settings: dict[str, Any]
    summary: dict[str, Any]
    images: list[ImageScore]
    failed: dict[str, str] = msgspec.field(default_factory=dict)


def write_scores(path: str | os.PathLike[str], scores: TranslationScores) -> None:
    """Write ``path``, atomically."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_bytes(path, msgspec.json.format(msgspec.json.encode(scores), indent=1) + b"\n")


def read_scores(path: str | os.PathLike[str]) -> TranslationScores:
    """Read what :func:`write_scores` wrote.

    Raises:
        DatasetError: it is not there, or not such a file.
    """
    path = Path(path)
    try:
        return msgspec.json.decode(path.read_bytes(), type=TranslationScores)
    except FileNotFoundError as error:
        raise DatasetError(f"{path} is not there; make it with nightaug score-translation") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: not a file of nightaug score-translation ({error})") from error
