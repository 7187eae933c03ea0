"""Which frames of which datasets enter a preparation: time of day, filters, missing images, duplicates, samples."""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nightaug.data.classes import DAY, NIGHT
from nightaug.data.companions import Companions
from nightaug.data.formats import Dataset, Problems
from nightaug.data.formats.discover import Part, unlabelled_frames
from nightaug.data.frames import Frame
from nightaug.data.items import Item, Items, item_rows
from nightaug.data.shelf import Picked, Shelf, repeated
from nightaug.data.splits import Drives, assign, rank, sample, shares
from nightaug.errors import ConfigError, DatasetError

DOMAIN_OF = {DAY: "A", NIGHT: "B"}


@dataclass
class Intake:
    """What has been read so far, and what was left out why.

    Attributes:
        shelf: where the items lie.
        weather, scene: words to keep, lower case; None keeps all.
        items: frames that go on.
        read: all frames seen; ``items`` and ``excluded`` sum to it.
        excluded: reason -> frames.
    """

    shelf: Shelf
    weather: frozenset[str] | None = None
    scene: frozenset[str] | None = None
    items: Items = field(init=False)
    read: int = 0
    excluded: Counter[str] = field(default_factory=Counter)
    problems: Problems = field(default_factory=Problems)
    companions: Companions = field(default_factory=Companions)

    def __post_init__(self) -> None:
        self.items = item_rows(self.shelf)

    def add(self, dataset: Dataset, domain: str | None) -> None:
        """Take a dataset's frames; with ``domain`` given, their own time of day is not asked."""
        self.problems.extend(dataset.problems)
        self.read += dataset.duplicates
        self.excluded["duplicate name"] += dataset.duplicates
        for part in dataset.parts:
            labelled = part.source is not None
            for frame in part.labels.frames:
                self._add(frame, labelled and (frame.extra or {}).get("labelled") is not False, part, domain)
            for frame in unlabelled_frames(part):
                self._add(frame, False, part, domain)

    def _add(self, frame: Frame, has_labels: bool, part: Part, domain: str | None) -> None:
        self.read += 1
        where = domain or part.domain or DOMAIN_OF.get(frame.timeofday or "")
        if where is None:
            if not has_labels and part.source is not None:
                self.excluded["image without labels, time of day unknown"] += 1
            else:
                self.excluded["dawn or dusk" if frame.timeofday else "time of day undefined"] += 1
            return
        frame.timeofday = DAY if where == "A" else NIGHT
        for key, words in (("weather", self.weather), ("scene", self.scene)):
            if words is not None and (getattr(frame, key) or "undefined").lower() not in words:
                self.excluded[f"{key} not asked for"] += 1
                return
        if frame.path is None:
            self.excluded["missing image"] += 1
            self.problems.add("missing image", frame.name, f"labelled in {part.source}, not found in {part.images}")
            return
        self.items.append(Item(frame, where, part.split, has_labels))

    def drop_duplicates(self) -> None:
        """Keep the first frame of an image file; list names that labels use for two different images."""
        # What is there twice is found by numbers, as all paths and names would fill the memory.
        twice = repeated(array("q", (hash(item.frame.path) for item in self.items.stored())))
        files: dict[str, tuple[str, str]] = {}

        def only(item: Item) -> Item | None:
            path = str(item.frame.path)
            if hash(path) not in twice:
                return item
            first = files.get(path)
            if first is None:
                files[path] = (item.given, item.domain)
                return item
            self.excluded["duplicate name"] += 1
            detail = f"the image is labelled twice, in {first[0]}/{first[1]} and {item.given}/{item.domain}"
            self.problems.add("duplicate name", item.frame.name, detail)
            return None

        if twice:
            self.items = self.items.changed(only)
        labelled = ((row.frame.video, row.frame.name) for row in self.items.stored() if row.labelled)
        twice = repeated(array("q", map(hash, labelled)))
        names: dict[tuple[str | None, str], tuple[str, str | None]] = {}
        for row in self.items.stored() if twice else ():
            key = (row.frame.video, row.frame.name)
            if not row.labelled or hash(key) not in twice:
                continue
            if key not in names:
                names[key] = (row.domain, row.frame.path)
            elif names[key][0] == row.domain:
                detail = f"{row.frame.path}, the other is {names[key][1]}; both are kept"
                self.problems.add("two images of one name", row.frame.name, detail)

    def place(self, fractions: tuple[float, float, float], limit: int | None, seed: int) -> None:
        """Find the drives, and give every item its split, whole drives; with a limit, take a sample before."""
        drives = Drives(row.frame for row in self.items.stored())
        ranked = array("Q")
        domains: list[str] = []
        given: list[str] = []
        texts: dict[str, str] = {}  # one of each, as every item that is read has texts of its own
        for row in self.items.stored():
            ranked.append(rank(drives.of(row.frame), seed))
            domains.append(texts.setdefault(row.domain, row.domain))
            given.append(texts.setdefault(row.given, row.given))
        places = np.asarray(ranked)
        kept: Sequence[int] = range(len(self.items))
        if limit is not None:
            kept = self._sample(places, domains, given, limit)
            self.excluded["over the limit"] += len(self.items) - len(kept)
            places = places[np.asarray(kept, np.int64)]
            domains, given = [domains[i] for i in kept], [given[i] for i in kept]
        splits, moved = assign(places, domains, given, fractions)
        homeless = set(moved)

        def placed() -> Iterator[Item | None]:
            for number, item in enumerate(self.items[i] for i in kept):
                item.drive, item.split = drives.of(item.frame), splits[number]
                if number in homeless:
                    kind = "moved to the split its drive is tested in"
                    self.problems.add(kind, item.frame.name, f"drive {item.drive}, was {item.given}")
                yield item

        self.items = self.items.replaced(placed())

    def _sample(self, places: NDArray[np.uint64], domains: list[str], given: list[str], limit: int) -> list[int]:
        """At most ``limit`` items a domain, spread over the datasets' own splits in proportion, by whole drives."""
        chosen: list[int] = []
        for domain in ("A", "B"):
            groups: dict[str, array[int]] = {}
            for i, (there, split) in enumerate(zip(domains, given, strict=True)):
                if there == domain:
                    groups.setdefault(split, array("q")).append(i)
            for split, share in shares({key: len(group) for key, group in groups.items()}, limit).items():
                group = groups[split]
                names = Picked(self.items, group, lambda row: row.frame.name)
                chosen += (group[i] for i in sample(places[np.asarray(group)], names, share))
        return sorted(chosen)

    def require_items(self, where: str) -> None:
        """Raise a DatasetError that says what became of the frames, if none is left."""
        if self.items:
            return
        if not self.read:
            raise DatasetError(f"{where}: no frames found")
        hint = ""
        if self.excluded["time of day undefined"] * 2 > self.read:
            hint = "; if its labels do not know the time of day, give a day and a night folder with --a and --b"
        elif self.excluded["missing image"] * 2 > self.read:
            hint = "; say where the images are with --images"
        reasons = ", ".join(f"{number} {reason}" for reason, number in self.excluded.most_common(4))
        lost = self.problems.lost_files()
        raise DatasetError(f"{where}: none of {self.read} frames can be used ({reasons}){hint}{lost}")


def find_sources(
    source: str | Path | None, a: object, b: object, images: object, labels: object
) -> list[tuple[Path, str | None]]:
    """The datasets to read, each with the domain it is forced into.

    Raises:
        ConfigError: too little or too much is given.
    """
    if source is not None:
        if a is not None or b is not None:
            raise ConfigError("give either a dataset or --a and --b, not both")
        return [(Path(source), None)]
    if a is not None and b is not None:
        if images is not None or labels is not None:
            raise ConfigError("--images and --labels go with a dataset, not with --a and --b")
        if os.path.realpath(str(a)) == os.path.realpath(str(b)):
            raise ConfigError(f"--a and --b are the same folder {a}; name the day folder and the night folder")
        return [(Path(str(a)), "A"), (Path(str(b)), "B")]
    if a is None and b is None and (images is not None or labels is not None):
        return [(Path(str(images if images is not None else labels)), None)]
    raise ConfigError("nothing to prepare: give a dataset, or a day folder with --a and a night folder with --b")


def check_apart(source: Path, out: Path) -> None:
    """Raise a DatasetError where one folder lies in the other: the next run would read what this one writes."""
    there, here = os.path.realpath(out), os.path.realpath(source)
    if os.path.commonpath([there, here]) in (there, here) and os.path.isdir(here):
        raise DatasetError(f"--out {out} and the source {source} lie in each other; choose a folder outside")
