"""Any dataset -> day and night folders: ``nightaug prepare``.

The result is ``{train,val,test}/{A,B}`` (A day, B night) of links to the images, with labels beside them; see
:mod:`nightaug.data.prepared` for every file. The steps: read, sort by time of day, sample, split by drives, look
at each image once, cut boxes to the image, write. Nothing that is left out is left out silently.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nightaug.data.checks import Limits, Look, Looker, brightness_limits
from nightaug.data.collect import Intake, check_apart, find_sources
from nightaug.data.formats import Problem, Problems, open_dataset
from nightaug.data.formats.base import shown
from nightaug.data.formats.discover import DOMAINS, SPLITS, check_encodable
from nightaug.data.frames import Box, Frame
from nightaug.data.items import Item
from nightaug.data.links import LinkMode
from nightaug.data.ownership import Looks, check_claim, claiming, saving_looks
from nightaug.data.prepared import write_folder
from nightaug.data.shelf import Shelf
from nightaug.data.splits import parse_split
from nightaug.data.text import encodable
from nightaug.data.upright import upright
from nightaug.errors import ConfigError, DatasetError

Progress = Callable[[str, int, int], None]
#: A box of which the image shows less than this many pixels in width or height is dropped; one that lies inside
#: stays, however small.
MIN_VISIBLE = 1.0


@dataclass
class PrepareReport:
    """What ``prepare`` found and did.

    Attributes:
        out: the folder written.
        counts: split -> domain -> ``{"images": n, "labelled": n, "boxes": n, "classes": {name: boxes}}``.
        excluded: reason -> frames left out; with the kept ones they sum to ``frames_read``.
        problems: everything listed, also of frames that were kept (clipped boxes, suspicious tags).
        problem_counts: kind -> number.
        links: hard, symbolic, copy -> files.
        limits: brightness limits used to check the tags, None when not checked.
        drives: split -> number of drives.
        dry_run: nothing was written.
    """

    out: Path
    classes: tuple[str, ...]
    frames_read: int
    counts: dict[str, dict[str, dict[str, Any]]]
    excluded: dict[str, int]
    problems: list[Problem]
    problem_counts: dict[str, int]
    drives: dict[str, int]
    links: dict[str, int] = field(default_factory=dict)
    limits: Limits | None = None
    dry_run: bool = False

    @property
    def images(self) -> int:
        """Images in all splits and domains."""
        return sum(domain["images"] for split in self.counts.values() for domain in split.values())

    @property
    def unreadable(self) -> int:
        """Images and label files that could not be read: the result is whole only where this is 0."""
        return self.excluded.get("unreadable image", 0) + self.problem_counts.get("unreadable label file", 0)

    def rows(self) -> list[tuple[str, str, int, int, int]]:
        """The table: split, domain, images, images with labels, boxes."""
        return [
            (split, domain, cell["images"], cell["labelled"], cell["boxes"])
            for split, domains in self.counts.items()
            for domain, cell in domains.items()
        ]


def prepare(
    source: str | Path | None = None,
    *,
    out: str | Path,
    a: str | Path | None = None,
    b: str | Path | None = None,
    images: str | Path | None = None,
    labels: str | Path | None = None,
    format: str | None = None,
    split: str = "6:2:2",
    weather: Sequence[str] | None = None,
    scene: Sequence[str] | None = None,
    limit: int | None = None,
    seed: int = 0,
    link: LinkMode = "hard",
    drop_mistagged: bool = False,
    check_brightness: bool = True,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> PrepareReport:
    """Make the day and night folders of a dataset.

    Args:
        source: a dataset whose labels know the time of day; or give ``a`` and ``b``.
        out: folder to make. Run again with the same settings it is completed or refreshed.
        a, b: a folder of day and one of night images (or datasets in any format); their tags are not asked.
        images, labels, format: say what ``source`` does not show by itself.
        split: train:val:test. A dataset's own validation split becomes test and val is cut from train in the
            proportion train:val; with an own test split, the own splits stay; otherwise all three are cut.
            Always whole drives.
        weather, scene: keep only frames with one of these words.
        limit: at most this many images a domain, whole drives while they fit, spread over the own splits in proportion.
        link: how images get into ``out``, falling through hard, symbolic, copy.
        drop_mistagged: leave out frames whose brightness contradicts their tag (they are listed in any case).
        check_brightness: False skips decoding; where the labels give the size, only headers are read.
        dry_run: do everything but write.
        progress: called with (step, done, total).

    Raises:
        DatasetError: nothing usable, or ``out`` holds something else.
        ConfigError: settings that contradict each other.
    """
    fractions = parse_split(split)
    if limit is not None and limit < 1:
        raise ConfigError(f"--limit {limit}: expected at least 1")
    if link not in ("hard", "symbolic", "copy"):
        raise ConfigError(f"--link {link}: expected hard, symbolic or copy")
    sources = find_sources(source, a, b, images, labels)
    out = Path(out)
    # The whole path: the manifest names files by it.
    if not encodable(os.path.abspath(out)):
        raise DatasetError(f"--out {shown(out)}: the name is not UTF-8, which no label file can hold; choose another")
    for path in (*(path for path, _ in sources), *(Path(p) for p in (images, labels) if p is not None)):
        check_encodable(os.path.abspath(path))
        check_apart(path, out)
    settings: dict[str, Any] = {
        "sources": [[str(path.resolve()), domain] for path, domain in sources],
        "images": None if images is None else str(Path(images).resolve()),
        "labels": None if labels is None else str(Path(labels).resolve()),
        "format": format,
        "split": split,
        "weather": sorted(weather) if weather else None,
        "scene": sorted(scene) if scene else None,
        "limit": limit,
        "seed": seed,
        "link": link,
        "drop_mistagged": drop_mistagged,
        "check_brightness": check_brightness,
    }
    check_claim(out, settings, overwrite)  # a mistake is known before the work

    def step(name: str, done: int, total: int) -> None:
        if progress is not None:
            progress(name, done, total)

    with _shelf(out) as shelf:
        intake = Intake(shelf, _words(weather), _words(scene))
        classes: dict[str, None] = {}
        for number, (path, domain) in enumerate(sources):
            step("read labels", number, len(sources))
            dataset = open_dataset(path, images, labels, format, shelf.keep)
            classes.update(dict.fromkeys(dataset.classes))
            intake.companions.add_dataset(Path(images) if images is not None else path)
            intake.add(dataset, domain)
        shelf.forget_frames()
        step("read labels", len(sources), len(sources))
        where = " and ".join(str(path) for path, _ in sources)
        intake.drop_duplicates()
        intake.require_items(where)
        intake.place(fractions, limit, seed)
        with contextlib.nullcontext() if dry_run else claiming(out, settings, overwrite) as sure:
            _look(intake, None if dry_run else out, check_brightness, step)
            limits = _limits(intake) if check_brightness else None
            report = _report(intake, classes, out, limits, drop_mistagged)
            report.dry_run = dry_run
            intake.require_items(where)
            if sure is not None:
                sure()
                summary = {
                    "counts": report.counts,
                    "excluded": report.excluded,
                    "problems": report.problem_counts,
                    "frames_read": intake.read,
                    "drives": report.drives,
                    "brightness_limits": None if limits is None or limits.basis == "none" else limits._asdict(),
                    "classes": report.classes,
                    "settings": settings,
                }
                report.links = write_folder(
                    out,
                    intake.items,
                    report.classes,
                    link,
                    shelf=shelf,
                    companions=intake.companions,
                    summary=summary,
                    problems=report.problems,
                    step=step,
                )
    return report


@contextlib.contextmanager
def _shelf(out: Path) -> Iterator[Shelf]:
    """Where the frames lie while they are sorted; a disk that is full is said as all else is."""
    try:
        # Beside --out and not in it: on a network disk a file without a name has one, and --out would not be empty.
        with Shelf(out.absolute().parent) as shelf:
            yield shelf
    except OSError as error:
        raise DatasetError(f"{error.filename or out}: cannot be prepared ({error.strerror or error})") from error


def _report(intake: Intake, classes: Iterable[str], out: Path, limits: Limits | None, drop: bool) -> PrepareReport:
    """Check the tags, fit the boxes and count everything, in one pass."""
    problems = intake.problems
    counts: dict[str, dict[str, dict[str, Any]]] = {
        split: {d: {"images": 0, "labelled": 0, "boxes": 0, "classes": Counter()} for d in DOMAINS} for split in SPLITS
    }
    drives = {split: array("q") for split in SPLITS}

    def finish(item: Item) -> Item | None:
        if limits is not None:
            _check_tag(item, limits, problems)
        if item.mistagged and drop:
            intake.excluded["brightness contradicts the tag"] += 1
            return None
        boxes = _fit_boxes(item.frame, problems)
        drives[item.split].append(hash(item.drive))
        cell = counts[item.split][item.domain]
        cell["images"] += 1
        cell["labelled"] += item.labelled
        cell["boxes"] += len(boxes)
        cell["classes"].update(box.category for box in boxes)
        return item

    intake.items = intake.items.changed(finish)
    seen: set[str] = set()
    for cell in (counts[split][domain] for split in SPLITS for domain in DOMAINS):
        cell["classes"] = dict(sorted(cell["classes"].items()))
        seen.update(cell["classes"])
    names = tuple(classes)
    return PrepareReport(
        out=out,
        classes=names + tuple(sorted(seen - set(names))),
        frames_read=intake.read,
        counts=counts,
        excluded={key: number for key, number in sorted(intake.excluded.items()) if number},
        problems=problems.listed,
        problem_counts=dict(sorted(problems.counts.items())),
        drives={split: len(np.unique(np.frombuffer(own, np.int64))) if own else 0 for split, own in drives.items()},
        limits=limits,
    )


def _words(words: Sequence[str] | None) -> frozenset[str] | None:
    return frozenset(word.strip().lower() for word in words) if words else None


def _look(intake: Intake, out: Path | None, brightness: bool, step: Progress) -> None:
    """Set ``look`` of every item: from an earlier, interrupted run where the file is the same, else from the image.

    What cannot be read is left out, and labels drawn on the pixels as stored are turned.
    """
    items, total = intake.items, len(intake.items)
    known = Looks(out, intake.shelf)

    def looked() -> Iterator[Item | None]:
        done = 0
        with saving_looks(out) as save, Looker(brightness) as look:
            # In batches, so that 70,000 waiting tasks do not lie in memory and progress is seen.
            for batch in _batches(items, look.batch):
                todo: list[tuple[Item, Path]] = []
                for item in batch:
                    path = item.frame.path
                    assert path is not None  # frames without an image were counted out
                    saved = known.of(os.path.abspath(path))
                    if saved is not None and (saved.luma is not None or not brightness):
                        item.look = saved
                    elif not brightness and item.frame.width is not None and item.frame.height is not None:
                        _turn(item, intake.problems)
                        item.look = Look(item.frame.width or 0, item.frame.height or 0, None, None)
                    else:
                        todo.append((item, path))
                paths = [path for _, path in todo]
                found = look(paths)
                if save is not None:
                    save(paths, found)
                for (item, _), seen in zip(todo, found, strict=True):
                    item.look = seen
                for item in batch:
                    yield _readable(item, intake)
                done += len(batch)
                step("look at images", done, total)

    intake.items = items.replaced(looked())


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    rest = iter(items)
    while batch := list(itertools.islice(rest, size)):
        yield batch


def _turn(item: Item, problems: Problems) -> None:
    """Turn labels that were drawn on the pixels as stored; see upright.py."""
    frame = item.frame
    item.frame = upright(frame)
    if item.frame is not frame:
        problems.add("labels turned upright with their image", frame.name, "they ignored its EXIF orientation")


def _readable(item: Item, intake: Intake) -> Item | None:
    """The item with its image's size, None where the image cannot be read."""
    frame, found = item.frame, item.look
    if found.error:
        intake.excluded["unreadable image"] += 1
        intake.problems.add("unreadable image", frame.name, found.error)
        return None
    if (frame.width, frame.height) == (found.height, found.width):
        _turn(item, intake.problems)
        frame = item.frame
    if frame.width is not None and (frame.width, frame.height) != (found.width, found.height):
        detail = f"labels say {frame.width}x{frame.height}, the image has {found.width}x{found.height}"
        intake.problems.add("size in the labels is wrong", frame.name, detail)
    frame.width, frame.height = found.width, found.height
    return item


def _limits(intake: Intake) -> Limits:
    """The brightness limits of these items."""
    groups = {"A": array("d"), "B": array("d")}
    for row in intake.items.stored():
        if row.look.luma_top is not None:
            groups[row.domain].append(row.look.luma_top)
    limits = brightness_limits(groups["A"], groups["B"])
    if limits.basis == "none":
        detail = "the medians of the upper third's brightness are no further apart; were the folders swapped?"
        intake.problems.add("day and night do not differ in brightness", "all images", detail)
    return limits


def _check_tag(item: Item, limits: Limits, problems: Problems) -> None:
    """Mark and list an item whose upper third is too bright for a night or too dark for a day."""
    luma = item.look.luma_top
    if luma is None:
        return
    if item.domain == "B":
        kind, limit, item.mistagged = "tagged night, bright as day", limits.night, luma > limits.night
    else:
        kind, limit, item.mistagged = "tagged day, dark as night", limits.day, luma < limits.day
    if item.mistagged:
        problems.add(kind, item.frame.name, f"upper third {luma:.0f}, limit {limit:.0f} ({limits.basis})")


def _fit_boxes(frame: Frame, problems: Problems) -> list[Box]:
    """Cut the boxes to the image; what is left of less than a pixel goes."""
    width, height = float(frame.width or 0), float(frame.height or 0)
    kept: list[Box] = []
    cut = False
    for box in frame.boxes:
        if box.x1 < 0 or box.y1 < 0 or box.x2 > width or box.y2 > height:
            cut = True
            detail = f"{box.category} {box.x1:.1f},{box.y1:.1f},{box.x2:.1f},{box.y2:.1f} in {width:.0f}x{height:.0f}"
            # Half a pixel is rounding in somebody's export: mended, but not worth a line.
            slight = box.x1 > -0.5 and box.y1 > -0.5 and box.x2 < width + 0.5 and box.y2 < height + 0.5
            box.x1, box.y1 = max(0.0, box.x1), max(0.0, box.y1)
            box.x2, box.y2 = min(width, box.x2), min(height, box.y2)
            if box.x2 - box.x1 < MIN_VISIBLE or box.y2 - box.y1 < MIN_VISIBLE:
                problems.add("box outside the image dropped", frame.name, detail)
                continue
            if not slight:
                problems.add("box cut to the image", frame.name, detail)
        kept.append(box)
    if cut:
        frame.boxes = kept
    return kept
