"""Which image was translated from which, with the labels of both; and the real night images they are held against."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import msgspec

from nightaug.curate.origins import Origins, lies_inside
from nightaug.data.classes import NIGHT
from nightaug.data.formats import TRANSLATION, Dataset, open_dataset
from nightaug.data.formats.discover import unlabelled_frames
from nightaug.data.frames import Frame
from nightaug.data.upright import upright
from nightaug.detect.sources import is_labelled, spread
from nightaug.errors import DatasetError, ImageError
from nightaug.images import image_size
from nightaug.translate.plan import read_manifest

#: Names of images without a partner that are said.
_SAID = 3


@dataclass(frozen=True)
class Pair:
    """A translation and its source.

    Attributes:
        output, source: as in the manifest.
        frame: labels of the translation, ``path`` its file.
        origin: the source's file.
        labelled: whether somebody has looked for objects.
        weight, dropped: of the image, and the numbers of its boxes that are left out of training, as in the manifest.
    """

    output: str
    source: str
    frame: Frame
    origin: Path
    labelled: bool
    weight: float = 1.0
    dropped: frozenset[int] = frozenset()


@dataclass
class Pairs:
    """What is to be scored.

    Attributes:
        items: in the manifest's order.
        failed: translations without a file or a source, with the reason.
        notes: what the user should know.
    """

    items: list[Pair]
    failed: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes that occur in the labels, by name."""
        return tuple(sorted({box.category for pair in self.items for box in pair.frame.boxes}))


def find_pairs(source: Path, translated: Path, limit: int | None = None) -> Pairs:
    """The images of a translated folder with their sources, as its manifest says.

    A folder without a manifest, made by another program, is paired with the source by the images' names; the labels are
    then the source's.

    Raises:
        DatasetError: a folder is missing, or no translation has its source there.
    """
    for path, what in ((source, "what was translated"), (translated, "the translated folder")):
        if not path.exists():
            raise DatasetError(f"{path} is not there; give {what}{_said(translated) if path == source else ''}")
    if not translated.is_dir():
        raise DatasetError(f"{translated}: expected a folder that nightaug translate made")
    rows = list(read_manifest(translated))
    pairs = _by_manifest(source, translated, limit) if rows else _by_name(source, translated, limit)
    if not pairs.items:
        reason = next(iter(pairs.failed.values()), "no images")
        raise DatasetError(f"{translated}: nothing to score with the source {source} ({reason}){_said(translated)}")
    if not any(pair.labelled for pair in pairs.items):
        pairs.notes.append("no labels: kept and moved cannot be told, invented is what the judge did not see by day")
    return pairs


def _said(translated: Path) -> str:
    """Where the folder says its images are from."""
    try:
        given = json.loads((translated / TRANSLATION).read_text("utf-8"))["input"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return f"; {translated.name} was translated from {given}"


def _by_manifest(source: Path, translated: Path, limit: int | None) -> Pairs:
    frames = _frames(translated)
    origins = Origins(source)
    pairs = Pairs([])
    for row in read_manifest(translated):
        if limit is not None and len(pairs.items) + len(pairs.failed) >= limit:
            break
        path = translated / row.output
        try:
            origin = origins.find(row.source, row.direction) if lies_inside(path, translated) else None
        except DatasetError:
            origin = None
        if origin is None:
            pairs.failed[row.output] = "the manifest names a file outside the folders"
        elif not path.is_file():
            pairs.failed[row.output] = "the translated image is missing"
        elif not origin.is_file():
            pairs.failed[row.output] = f"its source {row.source} is missing"
        else:
            frame = frames.get(os.path.normpath(row.output))
            labelled = frame is not None and is_labelled(frame)
            frame, dropped = frame or Frame(row.output, path=path), frozenset(row.dropped_boxes)
            pairs.items.append(Pair(row.output, row.source, frame, origin, labelled, row.weight, dropped))
    return pairs


def _frames(folder: Path) -> dict[str, Frame]:
    """Labelled frames of a folder by the place of their image in it."""
    try:
        dataset = open_dataset(folder)
    except DatasetError:
        return {}
    parts = [part for part in dataset.parts if part.source is not None]
    found = {}
    for frame in (frame for part in parts for frame in part.labels.frames if frame.path is not None):
        assert frame.path is not None
        found[os.path.normpath(os.path.relpath(os.path.abspath(frame.path), os.path.abspath(folder)))] = upright(frame)
    return found


def _all_frames(dataset: Dataset) -> list[tuple[Frame, bool]]:
    """Every frame with an image, and whether it is labelled."""
    out = []
    for part in dataset.parts:
        known = part.source is not None
        out += [(frame, known and is_labelled(frame)) for frame in part.labels.frames if frame.path is not None]
        out += [(frame, False) for frame in unlabelled_frames(part)]
    return out


def _by_name(source: Path, translated: Path, limit: int | None) -> Pairs:
    pairs = Pairs([], notes=["no manifest.jsonl: images are paired by name, with the labels of the source"])
    root = source if source.is_dir() else source.parent
    days = _all_frames(open_dataset(source))
    made = [frame for frame, _ in _all_frames(open_dataset(translated))]
    partners = _partners([frame for frame, _ in days], root, made, translated)
    if partners.ambiguous:
        pairs.notes.append(
            f"{partners.ambiguous:,} images of the source left out: their names alone do not tell which is which"
        )
    if partners.alone_made or partners.alone_days:
        pairs.notes.append(_alone_note(partners, root, translated))
    for number, (frame, labelled) in enumerate(days):
        path = partners.found.get(number)
        if path is None or frame.path is None:
            continue
        if limit is not None and len(pairs.items) >= limit:
            break
        turned = upright(frame)
        turned = on_image(turned, path) or msgspec.structs.replace(turned, path=path)
        output, origin = (os.path.relpath(a, b) for a, b in ((path, translated), (frame.path, root)))
        pairs.items.append(Pair(output, origin, turned, frame.path, labelled))
    if not pairs.items:
        pairs.failed["-"] = "no manifest.jsonl, and no image of the same name"
    return pairs


class _Partners(NamedTuple):
    """Images paired by name.

    Attributes:
        found: the translation of each source image by its number.
        ambiguous: how many sources have names that several images share.
        alone_days, alone_made: places of the sources and of the translations whose names the other side does not have.
    """

    found: dict[int, Path]
    ambiguous: int
    alone_days: list[str]
    alone_made: list[str]


def _alone_note(partners: _Partners, root: Path, translated: Path) -> str:
    sides = [(partners.alone_made, translated), (partners.alone_days, root)]
    counts = [(len(alone), os.path.basename(os.path.abspath(folder))) for alone, folder in sides if alone]
    (count, folder), *others = counts
    first = f"{count:,} {'image' if count == 1 else 'images'} of {folder}"
    names = [*partners.alone_made, *partners.alone_days]
    said = ", ".join(names[:_SAID]) + (", ..." if len(names) > _SAID else "")
    have = "has" if sum(number for number, _ in counts) == 1 else "have"
    return (
        " and ".join([first, *(f"{number:,} of {other}" for number, other in others)]) + f" {have} no partner ({said})"
    )


def _partners(days: list[Frame], root: Path, made: list[Frame], translated: Path) -> _Partners:
    """Pair images by name.

    First by the place below the folders, then by that without the ending, then by the bare name.
    """
    places = [_place(frame, root) for frame in days]
    free = {_place(frame, translated): frame.path for frame in made if frame.path is not None}
    found: dict[int, Path] = {}
    ambiguous = 0
    here: dict[str, list[PurePosixPath]] = {}
    there: dict[str, list[int]] = {}
    keys: tuple[Callable[[PurePosixPath], str], ...] = (str, lambda at: str(at.with_suffix("")), lambda at: at.stem)
    for key in keys:
        here, there = {}, {}
        for at in free:
            here.setdefault(key(at), []).append(at)
        for number, at in enumerate(places):
            if number not in found:
                there.setdefault(key(at), []).append(number)
        ambiguous = 0
        for name in there.keys() & here.keys():
            if len(there[name]) == len(here[name]) == 1:
                path = free.pop(here[name][0])
                found[there[name][0]] = path
            else:
                ambiguous += len(there[name])
    # By the bare name, the last key: what shares it with the other side is paired by now, or ambiguous.
    alone_days = sorted(str(places[number]) for name in there.keys() - here.keys() for number in there[name])
    alone_made = sorted(str(at) for name in here.keys() - there.keys() for at in here[name])
    return _Partners(found, ambiguous, alone_days, alone_made)


def _place(frame: Frame, root: Path) -> PurePosixPath:
    assert frame.path is not None
    return PurePosixPath(os.path.relpath(os.path.abspath(frame.path), os.path.abspath(root)))


def on_image(frame: Frame, path: Path) -> Frame | None:
    """A frame's boxes on another file of the same picture, scaled where that has another size.

    Returns:
        None where one of the two cannot be opened.
    """
    assert frame.path is not None
    try:
        (own_width, own_height), (width, height) = image_size(frame.path), image_size(path)
    except ImageError:
        return None
    x, y = width / own_width, height / own_height
    boxes = [
        msgspec.structs.replace(box, x1=box.x1 * x, y1=box.y1 * y, x2=box.x2 * x, y2=box.y2 * y) for box in frame.boxes
    ]
    return msgspec.structs.replace(frame, path=path, boxes=boxes, width=width, height=height)


def find_real(real: Path, pairs: Pairs, limit: int) -> list[tuple[Frame, bool]]:
    """Real night images, spread evenly, each with whether it is labelled.

    Of a prepared dataset those of domain B in the splits that were translated, so that scoring a training set never
    looks at the test set; where none of those is there all splits but test, which ``pairs.notes`` then says. Elsewhere
    the frames tagged night, or all where nothing is tagged.

    Raises:
        DatasetError: there are none.
    """
    dataset = open_dataset(real)
    splits = {pair.source.split("/", 1)[0] for pair in pairs.items}
    parts = dataset.parts
    if dataset.prepared:
        nights = [part for part in parts if part.domain == "B"]
        parts = [part for part in nights if part.split in splits]
        if not parts:
            parts = [part for part in nights if part.split != "test"]
            used = ", ".join(part.split for part in parts) or "none"
            pairs.notes.append(f"--real {real}: no translated split is there; real nights are of all but test ({used})")
    frames = _all_frames(Dataset(dataset.root, parts, dataset.prepared))
    tagged = [(frame, known) for frame, known in frames if frame.timeofday is not None]
    if tagged and not dataset.prepared:
        frames = [(frame, known) for frame, known in tagged if frame.timeofday == NIGHT]
    if not frames:
        but = " but those of the test split" if dataset.prepared else ""
        raise DatasetError(f"--real {real}: no night images there{but}")
    labelled = {str(frame.path): known for frame, known in frames}
    return [(upright(frame), labelled[str(frame.path)]) for frame in spread([frame for frame, _ in frames], limit)]
