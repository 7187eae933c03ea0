"""Which frames of which datasets enter a preparation: time of day, filters, missing images, duplicates, samples."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from nightaug.data.classes import DAY, NIGHT
from nightaug.data.companions import Companions
from nightaug.data.formats import Dataset, Problems
from nightaug.data.formats.discover import Part
from nightaug.data.frames import Frame
from nightaug.data.prepared import Item
from nightaug.data.splits import sample, shares
from nightaug.errors import ConfigError, DatasetError

DOMAIN_OF = {DAY: "A", NIGHT: "B"}


@dataclass
class Intake:
    """What has been read so far, and what was left out why.

    Attributes:
        weather, scene: words to keep, lower case; None keeps all.
        items: frames that go on.
        read: all frames seen; ``items`` and ``excluded`` sum to it.
        excluded: reason -> frames.
    """

    weather: frozenset[str] | None = None
    scene: frozenset[str] | None = None
    items: list[Item] = field(default_factory=list)
    read: int = 0
    excluded: Counter[str] = field(default_factory=Counter)
    problems: Problems = field(default_factory=Problems)
    companions: Companions = field(default_factory=Companions)

    def add(self, dataset: Dataset, domain: str | None) -> None:
        """Take a dataset's frames; with ``domain`` given, their own time of day is not asked."""
        self.problems.extend(dataset.problems)
        self.read += dataset.duplicates
        self.excluded["duplicate name"] += dataset.duplicates
        for part in dataset.parts:
            labelled = part.source is not None
            pairs = [(f, labelled and (f.extra or {}).get("labelled") is not False) for f in part.labels.frames]
            pairs += [(Frame(name, path=part.images / name), False) for name in part.labels.unlabelled]
            for frame, has_labels in pairs:
                self._add(frame, has_labels, part, domain)

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
        names: dict[tuple[str | None, str], Item] = {}
        files: dict[str, Item] = {}
        kept: list[Item] = []
        for item in self.items:
            frame = item.frame
            first = files.setdefault(str(frame.path), item)
            if first is not item:
                self.excluded["duplicate name"] += 1
                detail = f"the image is labelled twice, in {first.given}/{first.domain} and {item.given}/{item.domain}"
                self.problems.add("duplicate name", frame.name, detail)
                continue
            kept.append(item)
            if item.labelled:
                first = names.setdefault((frame.video, frame.name), item)
                if first is not item and first.domain == item.domain:
                    detail = f"{frame.path}, the other is {first.frame.path}; both are kept"
                    self.problems.add("two images of one name", frame.name, detail)
        self.items = kept

    def limit(self, number: int, seed: int) -> None:
        """At most ``number`` frames a domain, spread over the datasets' own splits in proportion, by whole drives."""
        chosen: set[int] = set()
        for domain in ("A", "B"):
            groups: dict[str, list[int]] = defaultdict(list)
            for i, item in enumerate(self.items):
                if item.domain == domain:
                    groups[item.given].append(i)
            for given, share in shares({key: len(group) for key, group in groups.items()}, number).items():
                group = groups[given]
                drives = [self.items[i].drive for i in group]
                names = [self.items[i].frame.name for i in group]
                chosen.update(group[i] for i in sample(drives, names, share, seed))
        self.excluded["over the limit"] += len(self.items) - len(chosen)
        self.items = [item for i, item in enumerate(self.items) if i in chosen]

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
