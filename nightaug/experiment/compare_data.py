"""What a comparison trains, chooses and tests on: drives kept whole, dev cut off, nothing of them ever trained on."""

from __future__ import annotations

import os
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import msgspec

from nightaug.data.classes import NIGHT
from nightaug.data.formats import open_dataset
from nightaug.data.formats.base import ordered_classes
from nightaug.data.formats.discover import DOMAINS, unlabelled_frames
from nightaug.data.frames import Frame
from nightaug.data.ownership import STATE
from nightaug.data.splits import cut, find_drives
from nightaug.detect.sources import image_weight, is_labelled, weighed
from nightaug.errors import ConfigError, DatasetError
from nightaug.experiment.arms import DATASET, TRANSLATED, shares, shown_name, slug
from nightaug.experiment.compare_adapt import Overrides, adapts_with
from nightaug.experiment.compare_held import Held, origin_of, places_by_name
from nightaug.experiment.compare_manifest import says_night_boxes, untranslated
from nightaug.experiment.compare_settings import HARMLESS, SourceSpec
from nightaug.translate.plan import read_manifest

#: Seed of the dev cut: the same for every seed of training, or choices would be made on other images each time.
_CUT_SEED = 0


class _Drive(msgspec.Struct):
    """What is needed of a row of a prepared dataset's manifest."""

    file: str = ""
    drive: str = ""


@dataclass
class Data:
    """A prepared dataset, cut for a comparison.

    Attributes:
        root: its folder.
        classes: canonical names that occur in it, BDD100K's order.
        train: domain -> labelled frames to train on, without the drives of dev.
        target: every night frame of train, labelled or not, without the drives of dev and test.
        dev: labelled frames every choice is made on: night, from drives nothing trains on.
        dev_day: labelled day frames of such drives; perhaps none.
        test: labelled night frames of the test split.
        drives: place in the dataset (``train/A/x.jpg``) -> drive.
        by_name: see :func:`origin_of`.
        held: what of it no arm may train on, whatever folder its images come from.
        notes: what the reader of the table should know.
    """

    root: Path
    classes: tuple[str, ...]
    train: dict[str, list[Frame]]
    target: list[Frame]
    dev: list[Frame]
    dev_day: list[Frame]
    test: list[Frame]
    drives: dict[str, str]
    by_name: dict[str, str]
    held: Held
    notes: list[str] = field(default_factory=list)

    def unlabelled(self) -> list[Frame]:
        """The target without its labels: all that an arm may see of it."""
        return [msgspec.structs.replace(frame, boxes=[], extra=None) for frame in self.target]


@dataclass
class ArmSource:
    """One part of an arm, with its images.

    Attributes:
        weight: share of the images a step draws, 0 to 1.
        dropped: images its manifest gave weight 0, or that could not be translated.
        held_back: images of dev or test drives, left out.
        origins: image -> the image it was made from, where known.
        pixels: checksum of the images' own checksums, as far as a manifest has them.
    """

    spec: SourceSpec
    name: str
    frames: list[Frame]
    weight: float
    night_boxes: bool = False
    dropped: int = 0
    held_back: int = 0
    origins: dict[Path, Path] = field(default_factory=dict)
    pixels: int = 0


@dataclass
class Arm:
    """An arm with everything it trains on.

    Attributes:
        key: its name without the mark for night labels.
        target: night images without their labels, which it adapts to; empty where it does not adapt.
        overrides: detector settings of its own.
    """

    key: str
    sources: list[ArmSource]
    target: list[Frame] = field(default_factory=list)
    overrides: Overrides = field(default_factory=dict)

    @property
    def night_boxes(self) -> bool:
        return any(source.night_boxes for source in self.sources)

    @property
    def name(self) -> str:
        return shown_name(self.key, self.night_boxes)

    @property
    def slug(self) -> str:
        return slug(self.key)

    @property
    def translator(self) -> str | None:
        names = [s.spec.data.partition(":")[2] for s in self.sources if s.spec.translated]
        return ", ".join(dict.fromkeys(names)) or None

    @property
    def dropped(self) -> int:
        return sum(source.dropped for source in self.sources)

    def boxes(self) -> Counter[str]:
        """Class -> boxes to learn from."""
        return Counter(
            box.category
            for source in self.sources
            for frame in source.frames
            for box in frame.boxes
            if box.weight > 0 and not box.crowd
        )

    @cached_property
    def checksum(self) -> str:
        """Changes with the images, their boxes and weights, the target and the arm's settings; not with the folder."""
        value = 0
        for source in self.sources:
            value = zlib.crc32(
                f"{source.spec.split}/{source.spec.domain}/{source.weight:.6f}/{source.pixels}".encode(), value
            )
            for frame in sorted(source.frames, key=lambda frame: frame.name):
                boxes = [(box.xyxy, box.category, box.weight, box.crowd) for box in frame.boxes]
                value = zlib.crc32(repr((frame.name, boxes, image_weight(frame))).encode(), value)
        # Nothing is added for an arm that has neither: older versions have counted so.
        if self.target:
            value = zlib.crc32(repr(sorted(frame.name for frame in self.target)).encode(), value)
        changes = {key: change for key, change in self.overrides.items() if key not in HARMLESS}
        if changes:
            value = zlib.crc32(msgspec.json.encode(changes, order="sorted"), value)
        return f"{value:08x}"


def _usable(frames: Iterable[Frame]) -> list[Frame]:
    """Frames with an image that somebody has labelled."""
    return [frame for frame in frames if frame.path is not None and is_labelled(frame)]


def read_data(root: Path, dev_share: float, allow_shared_drives: bool = False) -> Data:
    """Read a prepared dataset and cut it.

    dev is the val split's labelled night frames of drives that are in no other split; where there are none, a share of
    the train drives is cut off, whole, chosen by their names alone.

    Raises:
        DatasetError: not a prepared dataset, no labelled night test images, or nothing left to train or choose on.
        ConfigError: a drive of the test images is also in train, and that was not allowed.
    """
    dataset = open_dataset(root)
    if not dataset.prepared:
        raise DatasetError(f"{root} is not a folder of nightaug prepare (no train/A); prepare it first")
    places = {
        f"{part.split}/{part.domain}/{frame.name}": frame
        for part in dataset.parts
        for frame in (*part.labels.frames, *unlabelled_frames(part))
    }
    drives = _drives(root, places)
    by_part = {
        (split, domain): [(drives[f"{split}/{domain}/{f.name}"], f) for f in _usable(dataset.frames(split, domain))]
        for split in ("train", "val", "test")
        for domain in DOMAINS
    }
    if not by_part["train", "A"]:
        raise DatasetError(f"{root}: train/A has no labelled day images")
    if not by_part["test", "B"]:
        raise DatasetError(
            f"{root}: test/B has no labelled night images to test on; prepare it with a split such as --split 6:2:2"
        )
    notes = []
    test_drives = {drive for drive, _ in by_part["test", "B"]}
    train_drives = {drive for domain in DOMAINS for drive, _ in by_part["train", domain]}
    shared = test_drives & train_drives
    if shared:
        said = f"{len(shared)} of {len(test_drives)} test drives are also in train (such as {min(shared)})"
        if not allow_shared_drives:
            raise ConfigError(f"{root}: {said}, the numbers would flatter; prepare it anew, or allow shared drives")
        notes.append(f"{said}: the numbers flatter")
    own = [(drive, f) for drive, f in by_part["val", "B"] if drive not in train_drives | test_drives]
    if own:
        dev_drives = {drive for drive, _ in own}
        dev = [frame for _, frame in own]
        dev_day = [frame for drive, frame in by_part["val", "A"] if drive not in train_drives | test_drives]
    else:
        dev_drives, dev = _cut_dev(root, by_part, dev_share, shared, notes)
        dev_day = [frame for drive, frame in by_part["train", "A"] if drive in dev_drives]
    train = {domain: [f for drive, f in by_part["train", domain] if drive not in dev_drives] for domain in DOMAINS}
    if not train["A"]:
        raise DatasetError(f"{root}: no day image is left to train on beside the dev drives; use more drives")
    if all(drive.startswith("image ") for drive in test_drives | train_drives):
        notes.append("no drives are known: every image counts as a drive of its own")
    seen = {box.category for frame in dataset.frames() for box in frame.boxes}
    classes = tuple(name for name in ordered_classes(seen) if name in seen)
    test = [frame for _, frame in by_part["test", "B"]]
    # Day images of the other splits too: "all" of a folder made from this dataset is not meant to bring them in.
    others = {drives[place] for place in places if not place.startswith("train/")}
    shut = dev_drives | (others - train_drives)
    held = Held.of(shut, ((drives[place], frame.path) for place, frame in places.items()))
    target = [f for p, f in places.items() if p.startswith("train/B/") and f.path and drives[p] not in shut]
    return Data(root, classes, train, target, dev, dev_day, test, drives, places_by_name(places), held, notes)


def _drives(root: Path, places: dict[str, Frame]) -> dict[str, str]:
    """The drive of every image: as prepare has found it, where it has written that down."""
    drives = dict(zip(places, find_drives(list(places.values())), strict=True))
    decoder = msgspec.json.Decoder(_Drive)
    try:
        lines = (root / "manifest.jsonl").read_bytes().splitlines()
    except OSError:
        return drives
    for line in lines:
        try:
            row = decoder.decode(line)
        except (ValueError, RecursionError):
            continue
        if row.drive and row.file in drives:
            drives[row.file] = row.drive
    return drives


def _cut_dev(
    root: Path,
    by_part: dict[tuple[str, str], list[tuple[str, Frame]]],
    share: float,
    shared: set[str],
    notes: list[str],
) -> tuple[set[str], list[Frame]]:
    """The drives of train that become dev, and its frames."""
    # A drive that is also in test cannot serve: choosing on it would be choosing on the test.
    pool = [(d, domain, f) for domain in DOMAINS for d, f in by_part["train", domain] if d not in shared]
    if len({drive for drive, _, _ in pool}) < 2:
        raise DatasetError(
            f"{root}: too few drives in train to cut some off for choices; use more drives, or a val split"
        )
    splits = cut(
        [drive for drive, _, _ in pool],
        [domain for _, domain, _ in pool],
        {"train": 1 - share, "dev": share},
        _CUT_SEED,
    )
    drives = {drive for (drive, _, _), split in zip(pool, splits, strict=True) if split == "dev"}
    dev = {domain: [f for d, where, f in pool if where == domain and d in drives] for domain in DOMAINS}
    if not dev["A"] and not dev["B"]:
        raise DatasetError(f"{root}: its drives are too large to cut off {share:.0%} of them; use more drives")
    notes.append(f"dev: {len(drives)} {'drive' if len(drives) == 1 else 'drives'} cut off from train")
    if not dev["B"]:
        notes.append("dev holds day images only: no labelled night drive could be cut off")
    return drives, dev["B"] or dev["A"]


def read_source(spec: SourceSpec, share: float, folder: Path, data: Data) -> ArmSource:
    """The images of one part.

    The manifest of a translated folder is respected: images of weight 0 are left out, other weights go into
    ``frame.extra["weight"]``, and a dropped box stays with weight 0, which is neither a target nor background.

    Args:
        folder: the folder its data stands for.

    Raises:
        ConfigError: it would train on val or test images of the compared dataset.
        DatasetError: nothing to train on.
    """
    title = " ".join(filter(None, (Path(spec.data).name, spec.split, spec.domain)))
    if folder.resolve() == data.root.resolve():
        _train_only(spec, title)
        frames = [frame for domain in DOMAINS if spec.domain in (domain, None) for frame in data.train[domain]]
        source = ArmSource(spec, title, frames, share, night_boxes=spec.domain != "A" and bool(data.train["B"]))
        if source.night_boxes and spec.night_boxes is False:
            raise ConfigError(f"part {title}: its labels are those of night images, night_boxes: false is not true")
    else:
        source = _other_folder(spec, title, share, folder, data)
    if spec.night_boxes is not None:
        source.night_boxes = spec.night_boxes
    if not source.frames:
        hint = "; leave out arms that need labelled night images" if spec.domain == "B" and spec.data == DATASET else ""
        why = [f"{source.dropped} dropped"] if source.dropped else []
        why += [f"{source.held_back} of dev or test drives"] if source.held_back else []
        raise DatasetError(
            f"{folder}: no labelled image in {title} to train on" + (f" ({', '.join(why)})" if why else "") + hint
        )
    return source


def _train_only(spec: SourceSpec, title: str) -> None:
    if spec.split != "train":
        raise ConfigError(
            f"part {title}: arms train on the train split only, {spec.split} is kept for choices and tests"
        )


def _other_folder(spec: SourceSpec, title: str, share: float, folder: Path, data: Data) -> ArmSource:
    found = open_dataset(folder)
    split = "all" if found.splits == ("all",) else spec.split  # a folder without splits is taken whole
    frames = _usable(found.frames(split, spec.domain))
    own_drives = dict(zip(map(id, frames), find_drives(frames), strict=True))
    # A prepared dataset's manifest.jsonl is another file of that name.
    manifest = () if (folder / STATE).exists() else read_manifest(folder)
    rows = {os.path.abspath(folder / row.output): row for row in manifest}
    source = ArmSource(spec, title, [], share)
    # A folder named as a translator is one, also if another program made it and wrote no manifest.
    declared = spec.translated
    if declared:
        _train_only(spec, title)
    for frame in frames:
        assert frame.path is not None  # see _usable
        row = rows.get(os.path.abspath(frame.path))
        place = row.source if row else f"train/{'B' if spec.domain == 'A' else 'A'}/{frame.name}"
        origin = origin_of(place, data.drives, data.by_name) if row or declared else None
        drive = own_drives[id(frame)] if origin is None else data.drives[origin]
        if drive in data.held.drives or (row is None and data.held.copies(frame.path)):
            source.held_back += 1
            continue
        kept = weighed(frame, row.weight, frozenset(row.dropped_boxes)) if row else frame
        if kept is None:
            source.dropped += 1
            continue
        source.frames.append(kept)
        source.pixels += zlib.crc32(row.sha256.encode()) if row else 0  # in any order
        if origin:
            source.origins[frame.path] = data.root / origin
        # Labels of night frames count wherever they are used, also under an image rendered day.
        by_hand = spec.domain == "A" if declared else frame.timeofday == NIGHT
        dark = row.direction == "night2day" if row else by_hand
        source.night_boxes |= dark and bool(frame.boxes)
    source.dropped += untranslated(folder, spec)
    source.night_boxes |= bool(rows) and says_night_boxes(folder)
    return source


def build_arm(
    key: str,
    parts: Sequence[SourceSpec],
    folders: dict[tuple[str, str], Path],
    data: Data,
    overrides: Overrides | None = None,
    labelled: Mapping[str, ArmSource] | None = None,
) -> Arm:
    """An arm with its images.

    Args:
        folders: (translator, domain of its images) -> folder.
        overrides: detector settings of its own.
        labelled: ``pseudo:ARM`` -> what that arm has labelled.

    Raises:
        ConfigError, DatasetError: as :func:`read_source`, or there is no night image to adapt to.
    """
    sources = []
    for part, share in zip(parts, shares(parts), strict=True):
        kind, _, name = part.data.partition(":")
        if labelled and part.data in labelled:
            sources.append(replace(labelled[part.data], spec=part, weight=share))
            continue
        if part.data == DATASET:
            folder = data.root
        elif kind == TRANSLATED:
            folder = folders[name, part.domain or "B"]
        else:
            folder = Path(part.data)
        sources.append(read_source(part, share, folder, data))
    arm = Arm(key, sources, overrides=overrides or {})
    if not adapts_with(arm.overrides):
        return arm
    if not data.target:
        raise DatasetError(f"{data.root}: train/B has no night images for {key} to adapt to; leave that arm out")
    arm.target = data.unlabelled()
    return arm
