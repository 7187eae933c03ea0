"""Any dataset -> day and night folders: ``nightaug prepare``.

The result is ``{train,val,test}/{A,B}`` (A day, B night) of links to the images, with labels beside them; see
:mod:`nightaug.data.prepared` for every file. The steps: read, sort by time of day, sample, split by drives, look
at each image once, cut boxes to the image, write. Nothing that is left out is left out silently.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nightaug.data.checks import Limits, Look, brightness_limits, look_at_all
from nightaug.data.classes import DAY, NIGHT
from nightaug.data.companions import Companions
from nightaug.data.formats import Dataset, Problem, Problems, open_dataset
from nightaug.data.frames import Frame
from nightaug.data.links import LinkMode
from nightaug.data.prepared import Item, claim, load_looks, saving_looks, write_folder
from nightaug.data.splits import SPLITS, assign, find_drives, parse_split, sample, shares
from nightaug.errors import ConfigError, DatasetError

Progress = Callable[[str, int, int], None]
DOMAIN_OF = {DAY: "A", NIGHT: "B"}
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
            proportion train:val; with an own test split, the own splits stay; otherwise all three are cut. Always whole drives.
        weather, scene: keep only frames with one of these words.
        limit: at most this many images a domain, whole drives while they fit, spread over the own splits in proportion.
        link: how images get into ``out``, falling through hard, symbolic, copy.
        drop_mistagged: leave out frames whose brightness contradicts their tag (they are listed in any case).
        check_brightness: False skips decoding; images are then only opened where the labels give no size.
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
    sources = _sources(source, a, b, images, labels)
    out = Path(out)
    for path, _ in sources:
        _check_apart(path, out)
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
    if not dry_run:
        claim(out, settings, overwrite)

    def step(name: str, done: int, total: int) -> None:
        if progress is not None:
            progress(name, done, total)

    problems = Problems()
    excluded: Counter[str] = Counter()
    items: list[Item] = []
    classes: dict[str, None] = {}
    companions = Companions()
    frames_read = 0
    for number, (path, domain) in enumerate(sources):
        step("read labels", number, len(sources))
        dataset = open_dataset(path, images, labels, format)
        problems.extend(dataset.problems)
        classes.update(dict.fromkeys(dataset.classes))
        companions.add_dataset(Path(images) if images is not None else path)
        found, read = _collect(dataset, domain, companions, weather, scene, excluded, problems)
        items += found
        frames_read += read
    step("read labels", len(sources), len(sources))
    items = _without_duplicates(items, excluded, problems)
    for item, drive in zip(items, find_drives([item.frame for item in items]), strict=True):
        item.drive = drive
    if not items:
        raise DatasetError(_nothing(sources, frames_read, excluded))
    items = _limited(items, limit, seed, excluded)
    splits, moved = assign(
        [item.drive for item in items], [item.domain for item in items], [item.given for item in items], fractions, seed
    )
    for item, name in zip(items, splits, strict=True):
        item.split = name
    for i in moved:
        kind = "moved to the split its drive is tested in"
        problems.add(kind, items[i].frame.name, f"drive {items[i].drive}, was {items[i].given}")

    _look(items, None if dry_run else out, check_brightness, step)
    items = _readable(items, excluded, problems)
    limits = None
    if check_brightness:
        limits = _check_tags(items, problems)
        if drop_mistagged:
            excluded["brightness contradicts the tag, dropped"] += sum(item.mistagged for item in items)
            items = [item for item in items if not item.mistagged]
    if not items:
        raise DatasetError(_nothing(sources, frames_read, excluded))
    for item in items:
        _fit_boxes(item.frame, problems)
    names = tuple(classes)
    seen = {box.category for item in items for box in item.frame.boxes}
    names += tuple(sorted(seen - set(names)))
    report = PrepareReport(
        out=out,
        classes=names,
        frames_read=frames_read,
        counts=_count(items),
        excluded={key: number for key, number in sorted(excluded.items()) if number},
        problems=problems.listed,
        problem_counts=dict(sorted(problems.counts.items())),
        drives={name: len({i.drive for i in items if i.split == name}) for name in SPLITS},
        limits=limits,
        dry_run=dry_run,
    )
    if not dry_run:
        summary = {
            "counts": report.counts,
            "excluded": report.excluded,
            "problems": report.problem_counts,
            "frames_read": frames_read,
            "drives": report.drives,
            "brightness_limits": None if limits is None or limits.basis == "none" else limits._asdict(),
            "classes": names,
            "settings": settings,
        }
        report.links = write_folder(out, items, names, link, companions, summary, report.problems, step)
    return report


def _sources(
    source: str | Path | None, a: object, b: object, images: object, labels: object
) -> list[tuple[Path, str | None]]:
    if source is not None:
        if a is not None or b is not None:
            raise ConfigError("give either a dataset or --a and --b, not both")
        return [(Path(source), None)]
    if a is not None and b is not None:
        if images is not None or labels is not None:
            raise ConfigError("--images and --labels go with a dataset, not with --a and --b")
        return [(Path(str(a)), "A"), (Path(str(b)), "B")]
    if a is None and b is None and (images is not None or labels is not None):
        return [(Path(str(images if images is not None else labels)), None)]
    raise ConfigError("nothing to prepare: give a dataset, or a day folder with --a and a night folder with --b")


def _check_apart(source: Path, out: Path) -> None:
    there, here = os.path.realpath(out), os.path.realpath(source)
    if os.path.commonpath([there, here]) in (there, here) and os.path.isdir(here):
        raise DatasetError(f"--out {out} and the source {source} lie in each other; choose a folder outside")


def _nothing(sources: list[tuple[Path, str | None]], read: int, excluded: Counter[str]) -> str:
    reasons = ", ".join(f"{number} {reason}" for reason, number in excluded.most_common(4))
    where = " and ".join(str(path) for path, _ in sources)
    if not excluded:
        return f"{where}: no frames found"
    hint = ""
    if excluded["time of day undefined"] * 2 > read:
        hint = "; if its labels do not know the time of day, give a day and a night folder with --a and --b"
    elif excluded["missing image"] * 2 > read:
        hint = "; say where the images are with --images"
    return f"{where}: none of {read} frames can be used ({reasons}){hint}"


def _collect(
    dataset: Dataset,
    domain: str | None,
    companions: Companions,
    weather: Sequence[str] | None,
    scene: Sequence[str] | None,
    excluded: Counter[str],
    problems: Problems,
) -> tuple[list[Item], int]:
    """Frames of one dataset that belong in a domain; the second value counts all that were there."""
    items: list[Item] = []
    read = 0
    wanted = [({w.lower() for w in words}, key) for words, key in ((weather, "weather"), (scene, "scene")) if words]
    for part in dataset.parts:
        labels = part.labels
        labelled = part.source is not None
        pairs = [(f, labelled and (f.extra or {}).get("labelled") is not False) for f in labels.frames]
        pairs += [(Frame(name, path=part.images / name), False) for name in labels.unlabelled]
        stems = {os.path.splitext(f.name)[0] for f, _ in pairs}
        for frame, has_labels in pairs:
            if not has_labels and companions.is_companion(frame.name, stems):
                continue
            read += 1
            where = domain or part.domain or DOMAIN_OF.get(frame.timeofday or "")
            if where is None:
                reason = "dawn or dusk" if frame.timeofday else "time of day undefined"
                if not has_labels and labelled:
                    reason = "image without labels, time of day unknown"
                excluded[reason] += 1
                continue
            frame.timeofday = DAY if where == "A" else NIGHT
            off = next((key for words, key in wanted if (getattr(frame, key) or "undefined").lower() not in words), None)
            if off is not None:
                excluded[f"{off} not asked for"] += 1
                continue
            if frame.path is None:
                excluded["missing image"] += 1
                problems.add("missing image", frame.name, f"labelled in {part.source}, not found in {part.images}")
                continue
            items.append(Item(frame, where, part.split, has_labels))
    return items, read


def _without_duplicates(items: list[Item], excluded: Counter[str], problems: Problems) -> list[Item]:
    """One frame an image, and one image a name within a domain's drive; the first labelled one stays."""
    kept: dict[object, Item] = {}
    for item in items:
        video = item.frame.video
        key = (item.domain, video, item.frame.name) if item.given != "all" or video else str(item.frame.path)
        if key not in kept and str(item.frame.path) not in kept:
            kept[key] = kept[str(item.frame.path)] = item
            continue
        first = kept[key] if key in kept else kept[str(item.frame.path)]
        excluded["duplicate name"] += 1
        problems.add("duplicate name", item.frame.name, f"{item.given}/{item.domain}, first in {first.given}/{first.domain}")
    return list({id(item): item for item in kept.values()}.values())


def _limited(items: list[Item], limit: int | None, seed: int, excluded: Counter[str]) -> list[Item]:
    if limit is None:
        return items
    chosen: set[int] = set()
    for domain in ("A", "B"):
        groups: dict[str, list[int]] = defaultdict(list)
        for i, item in enumerate(items):
            if item.domain == domain:
                groups[item.given].append(i)
        for given, number in shares({key: len(group) for key, group in groups.items()}, limit).items():
            group = groups[given]
            picked = sample([items[i].drive for i in group], [items[i].frame.name for i in group], number, seed)
            chosen.update(group[i] for i in picked)
    excluded["over the limit"] += len(items) - len(chosen)
    return [item for i, item in enumerate(items) if i in chosen]


def _look(items: list[Item], out: Path | None, brightness: bool, step: Progress) -> None:
    """Set ``look`` of every item: from an earlier, interrupted run where the file is the same, else from the image."""
    known = load_looks(out) if out is not None else {}
    todo: list[Item] = []
    for item in items:
        frame = item.frame
        saved = known.get(os.path.abspath(frame.path)) if frame.path is not None else None
        if saved is not None and (saved.luma is not None or not brightness):
            item.look = saved
        elif not brightness and frame.width is not None and frame.height is not None:
            item.look = Look(frame.width, frame.height, None, None)
        else:
            todo.append(item)
    done = len(items) - len(todo)
    paths = [item.frame.path for item in todo if item.frame.path is not None]
    with saving_looks(out) as save:
        looks = look_at_all(paths, brightness, lambda n, _: step("look at images", done + n, len(items)), save=save)
    for item, found in zip(todo, looks, strict=True):
        item.look = found


def _readable(items: list[Item], excluded: Counter[str], problems: Problems) -> list[Item]:
    kept: list[Item] = []
    for item in items:
        frame, found = item.frame, item.look
        if found.error:
            excluded["unreadable image"] += 1
            problems.add("unreadable image", frame.name, found.error)
            continue
        if frame.width is not None and (frame.width, frame.height) != (found.width, found.height):
            detail = f"labels say {frame.width}x{frame.height}, the image has {found.width}x{found.height}"
            problems.add("size in the labels is wrong", frame.name, detail)
        frame.width, frame.height = found.width, found.height
        kept.append(item)
    return kept


def _check_tags(items: list[Item], problems: Problems) -> Limits:
    """Mark and list the items whose upper third is too bright for a night or too dark for a day."""
    groups: dict[str, list[float]] = {"A": [], "B": []}
    for item in items:
        if item.look.luma_top is not None:
            groups[item.domain].append(item.look.luma_top)
    limits = brightness_limits(groups["A"], groups["B"])
    if limits.basis == "none":
        detail = "the medians of the upper third's brightness are no further apart; were the folders swapped?"
        problems.add("day and night do not differ in brightness", "all images", detail)
    for item in items:
        luma = item.look.luma_top
        if luma is None:
            continue
        if item.domain == "B" and luma > limits.night:
            item.mistagged = True
            detail = f"upper third {luma:.0f}, limit {limits.night:.0f} ({limits.basis})"
            problems.add("tagged night, bright as day", item.frame.name, detail)
        elif item.domain == "A" and luma < limits.day:
            item.mistagged = True
            detail = f"upper third {luma:.0f}, limit {limits.day:.0f} ({limits.basis})"
            problems.add("tagged day, dark as night", item.frame.name, detail)
    return limits


def _fit_boxes(frame: Frame, problems: Problems) -> None:
    """Cut the boxes to the image; what is left of less than a pixel goes."""
    width, height = float(frame.width or 0), float(frame.height or 0)
    kept = []
    for box in frame.boxes:
        if box.x1 < 0 or box.y1 < 0 or box.x2 > width or box.y2 > height:
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
    frame.boxes = kept


def _count(items: list[Item]) -> dict[str, dict[str, dict[str, Any]]]:
    counts: dict[str, dict[str, dict[str, Any]]] = {
        split: {d: {"images": 0, "labelled": 0, "boxes": 0, "classes": Counter()} for d in ("A", "B")} for split in SPLITS
    }
    for item in items:
        cell = counts[item.split][item.domain]
        cell["images"] += 1
        cell["labelled"] += item.labelled
        cell["boxes"] += len(item.frame.boxes)
        cell["classes"].update(box.category for box in item.frame.boxes)
    for domains in counts.values():
        for cell in domains.values():
            cell["classes"] = dict(sorted(cell["classes"].items()))
    return counts
