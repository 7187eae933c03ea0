"""The folder ``nightaug prepare`` makes, and how it is written.

```
{train,val,test}/{A,B}/x.jpg     links to the images; beside each labelled one its YOLO labels x.txt
{split}/{domain}_extra/KIND/     masks, lane files and the like (see companions.py), only where there are any
annotations/{split}_{A,B}.json   COCO, with time of day, weather, scene and video of each image
dataset.yaml                     YOLO: ultralytics finds x.txt beside x.jpg as no folder is called "images"
manifest.jsonl                   one line an image: where it came from, what is known about it
counts.json                      the table of counts, everything excluded and why, the settings
problems.jsonl                   every problem with its name
prepare.json                     settings and whether the folder is complete; written first and last
.lock                            held while prepare runs
```

Images nobody has labelled have no ``x.txt`` and ``"labelled": false`` in COCO; YOLO would take them for empty
streets, so ``dataset.yaml`` then names lists without them (``{split}_{domain}.txt``).
Every file is written atomically; running again completes what is missing (see ownership.py).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from nightaug.data.checks import Look
from nightaug.data.companions import Companions
from nightaug.data.formats import coco, yolo
from nightaug.data.formats.base import Problem
from nightaug.data.formats.discover import DOMAINS, SPLITS
from nightaug.data.frames import Frame
from nightaug.data.links import Linker, LinkMode, temporary_stem
from nightaug.data.ownership import complete, made_files, remove_file, remove_folders, write_plan
from nightaug.errors import DatasetError
from nightaug.images import IMAGE_SUFFIXES, atomic_open, atomic_write_bytes, atomic_write_text

_MAX_NAME = 240  # bytes


@dataclass(slots=True)
class Item:
    """A frame on its way into the folder.

    Attributes:
        domain: ``A`` (day) or ``B`` (night).
        given: the split its dataset has it in (``all`` where that has none); ``split`` is where it goes.
        labelled: somebody has looked for objects in it.
        file: its name in the folder, without split and domain.
        companions: source and place in the folder of its masks and the like; known once the files are named.
    """

    frame: Frame
    domain: str
    given: str
    labelled: bool
    drive: str = ""
    split: str = ""
    file: str = ""
    mistagged: bool = False
    look: Look = field(default=Look(0, 0, None, None))
    companions: Sequence[tuple[Path, str]] = ()


def name_files(items: Sequence[Item]) -> int:
    """Set ``file`` of every item: the image's base name, longer where two of a folder would share a stem.

    Returns:
        The number of images that got a longer name.
    """
    groups: dict[tuple[str, str, str], list[Item]] = defaultdict(list)
    for item in items:
        item.file = item.frame.name.rsplit("/", 1)[-1]
        if item.frame.path is not None:
            item.file = os.path.splitext(item.file)[0] + item.frame.path.suffix
        groups[item.split, item.domain, _stem(item)].append(item)
    doubles = [group for group in groups.values() if len(group) > 1]
    renamed: list[Item] = []
    if doubles:
        # With names that repeat in every video, all get the video's name, so that none stands out by chance.
        renamed = [i for i in items if i.frame.video and not i.file.startswith(i.frame.video)]
        for item in renamed:
            item.file = f"{_flat(item.frame.video or '')}_{item.file}"
        groups.clear()
        for item in items:
            groups[item.split, item.domain, _stem(item)].append(item)
        for group in groups.values():
            if len(group) > 1:
                for item in group:
                    item.file = _flat(item.frame.name) if "/" in item.frame.name else item.file
                renamed += group
    taken: set[tuple[str, str, str]] = set()
    for item in items:
        item.file = _short(item.file)
        stem, suffix = os.path.splitext(item.file)
        number = 1
        while (item.split, item.domain, _stem(item)) in taken:
            number += 1
            item.file = f"{stem}-{number}{suffix}"
        taken.add((item.split, item.domain, _stem(item)))
    return len({id(item) for item in renamed})


def _flat(name: str) -> str:
    return name.replace("/", "_")


def _short(name: str) -> str:
    """A name that file systems take (255 bytes), also with a number or ``.txt``: a hash for what was cut off."""
    if len(name.encode()) <= _MAX_NAME:
        return name
    stem, suffix = os.path.splitext(name)
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return f"{stem.encode()[:200].decode('utf-8', 'ignore')}-{digest}{suffix}"


def _stem(item: Item) -> str:
    # Lower case: two names that differ in case only are one file on some systems.
    return os.path.splitext(item.file)[0].lower()


def write_folder(
    out: Path,
    items: Sequence[Item],
    classes: tuple[str, ...],
    link: LinkMode,
    *,
    companions: Companions,
    summary: dict[str, Any],
    problems: Sequence[Problem],
    step: Callable[[str, int, int], None],
) -> dict[str, int]:
    """Write everything; the state file says "complete" only at the very end.

    Returns:
        hard, symbolic, copy -> number of files.

    Raises:
        DatasetError: a file cannot be written.
    """
    renamed = name_files(items)
    if renamed:
        summary["problems"] = {**summary["problems"], "renamed, the name was taken": renamed}
    linker = Linker(link)
    groups: dict[tuple[str, str], list[Item]] = {(s, d): [] for s in SPLITS for d in DOMAINS}
    for item in items:
        groups[item.split, item.domain].append(item)
    try:
        strange = _write_images(out, items, linker, classes, companions=companions, step=step)
        lists: dict[tuple[str, str], str] = {}
        for (split, domain), group in groups.items():
            step("write annotations", len(lists), len(groups))
            frames = [_written_frame(item) for item in group]
            coco.write(frames, out / "annotations" / f"{split}_{domain}.json", classes)
            lists[split, domain] = _yolo_list(out, split, domain, group)
        atomic_write_text(out / "dataset.yaml", _yolo_yaml(lists, classes))
        with atomic_open(out / "manifest.jsonl") as stream:
            stream.writelines(msgspec.json.encode(_row(item)) + b"\n" for item in items)
        with atomic_open(out / "problems.jsonl") as stream:
            stream.writelines(msgspec.json.encode(p._asdict()) + b"\n" for p in problems)
        summary = {**summary, "links": dict(linker.used), "files_from_elsewhere": strange}
        atomic_write_text(out / "counts.json", json.dumps(summary, indent=1) + "\n")
        complete(out, summary["settings"])
    except OSError as error:
        raise DatasetError(f"{out}: cannot be written ({error.strerror or error})") from error
    return dict(linker.used)


def _write_images(
    out: Path,
    items: Sequence[Item],
    linker: Linker,
    classes: tuple[str, ...],
    *,
    companions: Companions,
    step: Callable[[str, int, int], None],
) -> int:
    """Link images and companions, write YOLO labels; the number of strange images and labels found among them."""
    numbers = {name: number for number, name in enumerate(classes)}
    for item in items:
        stem = os.path.splitext(item.file)[0]
        item.companions = tuple(
            (file, f"{item.split}/{item.domain}_extra/{kind}/{stem}{ending}")
            for file, kind, ending in companions.of(item.frame)
        )
    wanted = {name: None for item in items for name in _files_of(item)}
    # Before the first file is made: a killed run's files must be known as ours.
    before = made_files(out)
    write_plan(out, [*wanted, *sorted(before.difference(wanted))])
    for split in SPLITS:
        for domain in DOMAINS:
            (out / split / domain).mkdir(parents=True, exist_ok=True)
    for done, item in enumerate(items):
        frame = item.frame
        assert frame.path is not None  # frames without an image were counted out
        folder = out / item.split / item.domain
        linker.put(frame.path, folder / item.file)
        if item.labelled:
            _write_quick(folder / f"{os.path.splitext(item.file)[0]}.txt", yolo.lines(frame, numbers))
        for file, place in item.companions:
            (out / place).parent.mkdir(parents=True, exist_ok=True)
            linker.put(file, out / place)
        if (done + 1) % 500 == 0:
            step("link images", done + 1, len(items))
    stale = before.difference(wanted)
    for name in stale:
        # Left by an earlier run whose source has changed; never a stranger's file.
        remove_file(out / name)
    remove_folders(out, (name for name in stale if "_extra/" in name))
    step("link images", len(items), len(items))
    return _sweep(out, wanted, {temporary_stem(name.rsplit("/", 1)[-1]) for name in (*wanted, *stale)})


def _sweep(out: Path, wanted: Container[str], temporary: Container[str]) -> int:
    """Remove the halves of our files that a killed run has left; the number of strange images and labels."""
    strange = 0
    for split in SPLITS:
        for domain in DOMAINS:
            for name in os.listdir(out / split / domain):
                if name.endswith(".tmp") and name.startswith(".") and name[1:].rsplit(".", 2)[0] in temporary:
                    remove_file(out / split / domain / name)
                elif os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES | {".txt"}:
                    strange += f"{split}/{domain}/{name}" not in wanted
    return strange


def _files_of(item: Item) -> list[str]:
    """Everything that is made for an item, relative to the folder."""
    file = f"{item.split}/{item.domain}/{item.file}"
    labels = [os.path.splitext(file)[0] + ".txt"] if item.labelled else []
    return [file, *labels, *(place for _, place in item.companions)]


def _write_quick(path: Path, text: str) -> None:
    """Write one of 70,000 small files: a new one in one go, one that is right already not at all.

    A process killed between creating and writing leaves an empty file; the state file then says "incomplete", and
    the next run compares and mends it. (Renaming over an existing file makes ext4 flush it, a hundred times the cost.)
    """
    data = text.encode()
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        if path.read_bytes() != data:
            atomic_write_bytes(path, data)
        return
    try:
        os.write(handle, data)
    finally:
        os.close(handle)


def _written_frame(item: Item) -> Frame:
    f = item.frame
    extra = None if item.labelled else {"labelled": False}
    return Frame(item.file, f.boxes, f.width, f.height, f.timeofday, f.weather, f.scene, f.video, None, extra)


def _row(item: Item) -> dict[str, Any]:
    f = item.frame
    return {
        "split": item.split,
        "domain": item.domain,
        "file": f"{item.split}/{item.domain}/{item.file}",
        "source": os.path.abspath(f.path) if f.path is not None else None,
        "source_bytes": item.look.size,
        "source_mtime_ns": item.look.modified,
        "drive": item.drive,
        "video": f.video,
        "timeofday": f.timeofday,
        "weather": f.weather,
        "scene": f.scene,
        "width": f.width,
        "height": f.height,
        "labelled": item.labelled,
        "boxes": len(f.boxes) if item.labelled else None,
        "luma": item.look.luma,
        "luma_top": item.look.luma_top,
        "mistagged": item.mistagged,
        "companions": [place for _, place in item.companions],
    }


def _yolo_list(out: Path, split: str, domain: str, group: Sequence[Item]) -> str:
    """What dataset.yaml names for one folder: the folder, or a list where some of its images have no labels."""
    path = out / f"{split}_{domain}.txt"
    if all(item.labelled for item in group):
        path.unlink(missing_ok=True)
        return f"{split}/{domain}" if group else ""
    labelled = [item for item in group if item.labelled]
    atomic_write_text(path, "".join(f"./{split}/{domain}/{item.file}\n" for item in labelled))
    return f"{split}_{domain}.txt" if labelled else ""


def _yolo_yaml(lists: dict[tuple[str, str], str], classes: tuple[str, ...]) -> str:
    folders = {split: [lists[split, domain] for domain in DOMAINS if lists[split, domain]] for split in SPLITS}
    note = "Made by nightaug prepare. A is day, B is night; train on one by naming only that folder."
    return yolo.dataset_yaml(folders, classes, note)
