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

import json
import os
from array import array
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

from nightaug.data.companions import Companions
from nightaug.data.formats import coco, yolo
from nightaug.data.formats.base import Problem
from nightaug.data.formats.discover import DOMAINS, SPLITS
from nightaug.data.frames import Frame
from nightaug.data.items import ItemRow, Items, name_files
from nightaug.data.links import Linker, LinkMode, temporary_stem
from nightaug.data.ownership import complete, made_files, remove_file, remove_folders, write_plan
from nightaug.data.shelf import Hashed, Picked, Shelf
from nightaug.errors import DatasetError
from nightaug.images import IMAGE_SUFFIXES, atomic_open, atomic_write_bytes, atomic_write_text


def write_folder(
    out: Path,
    items: Items,
    classes: tuple[str, ...],
    link: LinkMode,
    *,
    shelf: Shelf,
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
    items, renamed = name_files(items)
    if renamed:
        summary["problems"] = {**summary["problems"], "renamed, the name was taken": renamed}
    linker = Linker(link)
    groups: dict[tuple[str, str], array[int]] = {(s, d): array("q") for s in SPLITS for d in DOMAINS}
    for number, row in enumerate(items.stored()):
        groups[row.split, row.domain].append(number)
    try:
        strange = _write_images(out, items, linker, classes, shelf=shelf, companions=companions, step=step)
        lists: dict[tuple[str, str], str] = {}
        for (split, domain), group in groups.items():
            step("write annotations", len(lists), len(groups))
            frames = Picked(items, group, lambda row: _written_frame(row, shelf))
            coco.write(frames, out / "annotations" / f"{split}_{domain}.json", classes)
            lists[split, domain] = _yolo_list(out, split, domain, Picked(items, group, lambda row: row))
        atomic_write_text(out / "dataset.yaml", _yolo_yaml(lists, classes))
        with atomic_open(out / "manifest.jsonl") as stream:
            stream.writelines(msgspec.json.encode(_row(row, companions)) + b"\n" for row in items.stored())
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
    items: Items,
    linker: Linker,
    classes: tuple[str, ...],
    *,
    shelf: Shelf,
    companions: Companions,
    step: Callable[[str, int, int], None],
) -> int:
    """Link images and companions, write YOLO labels; the number of strange images and labels found among them."""
    numbers = {name: number for number, name in enumerate(classes)}

    def files() -> Iterator[str]:
        return (name for row in items.stored() for name in _files_of(row, companions))

    wanted = Hashed(files())
    # Before the first file is made: a killed run's files must be known as ours.
    stale = sorted({name for name in made_files(out) if name not in wanted})
    write_plan(out, chain(files(), stale))
    for split in SPLITS:
        for domain in DOMAINS:
            (out / split / domain).mkdir(parents=True, exist_ok=True)
    for done, row in enumerate(items.stored()):
        assert row.frame.path is not None  # frames without an image were counted out
        folder = f"{out}/{row.split}/{row.domain}"
        linker.put(row.frame.path, f"{folder}/{row.file}")
        if row.labelled:
            text = yolo.lines(_written_frame(row, shelf), numbers)
            _write_quick(f"{folder}/{os.path.splitext(row.file)[0]}.txt", text)
        for file, place in _companions_of(row, companions):
            (out / place).parent.mkdir(parents=True, exist_ok=True)
            linker.put(file, out / place)
        if (done + 1) % 500 == 0:
            step("link images", done + 1, len(items))
    for name in stale:
        # Left by an earlier run whose source has changed; never a stranger's file.
        remove_file(out / name)
    remove_folders(out, (name for name in stale if "_extra/" in name))
    step("link images", len(items), len(items))
    return _sweep(out, wanted, chain(files(), stale))


def _sweep(out: Path, wanted: Container[str], made: Iterable[str]) -> int:
    """Remove the halves of our files that a killed run has left; the number of strange images and labels.

    Args:
        wanted: what belongs there.
        made: that and what was there before; gone through only where there are halves.
    """
    strange = 0
    halves: dict[str, list[str]] = {}
    for split in SPLITS:
        for domain in DOMAINS:
            with os.scandir(out / split / domain) as entries:
                for entry in entries:
                    name = entry.name
                    if name.endswith(".tmp") and name.startswith("."):
                        halves.setdefault(name[1:].rsplit(".", 2)[0], []).append(entry.path)
                    elif os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES | {".txt"}:
                        strange += f"{split}/{domain}/{name}" not in wanted
    for name in made if halves else ():
        for half in halves.pop(temporary_stem(name.rsplit("/", 1)[-1]), ()):
            remove_file(Path(half))
    return strange


def _companions_of(row: ItemRow, companions: Companions) -> Iterator[tuple[Path, str]]:
    """Source and place in the folder of an item's masks and the like."""
    stem = os.path.splitext(row.file)[0]
    for file, kind, ending in companions.of(row.frame.path or "", row.frame.video):
        yield file, f"{row.split}/{row.domain}_extra/{kind}/{stem}{ending}"


def _files_of(row: ItemRow, companions: Companions) -> list[str]:
    """Everything that is made for an item, relative to the folder."""
    file = f"{row.split}/{row.domain}/{row.file}"
    labels = [os.path.splitext(file)[0] + ".txt"] if row.labelled else []
    return [file, *labels, *(place for _, place in _companions_of(row, companions))]


def _write_quick(path: str, text: str) -> None:
    """Write one of 70,000 small files: a new one in one go, one that is right already not at all.

    A process killed between creating and writing leaves an empty file; the state file then says "incomplete", and
    the next run compares and mends it. (Renaming over an existing file makes ext4 flush it, a hundred times the cost.)
    """
    data = text.encode()
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        if Path(path).read_bytes() != data:
            atomic_write_bytes(path, data)
        return
    try:
        os.write(handle, data)
    finally:
        os.close(handle)


def _written_frame(row: ItemRow, shelf: Shelf) -> Frame:
    f = row.frame
    extra = None if row.labelled else {"labelled": False}
    return Frame(row.file, shelf.boxes(f), f.width, f.height, f.timeofday, f.weather, f.scene, f.video, None, extra)


def _row(row: ItemRow, companions: Companions) -> dict[str, Any]:
    f = row.frame
    return {
        "split": row.split,
        "domain": row.domain,
        "file": f"{row.split}/{row.domain}/{row.file}",
        "source": os.path.abspath(f.path) if f.path is not None else None,
        "source_bytes": row.look.size,
        "source_mtime_ns": row.look.modified,
        "drive": row.drive,
        "video": f.video,
        "timeofday": f.timeofday,
        "weather": f.weather,
        "scene": f.scene,
        "width": f.width,
        "height": f.height,
        "labelled": row.labelled,
        "boxes": f.count if row.labelled else None,
        "luma": row.look.luma,
        "luma_top": row.look.luma_top,
        "mistagged": row.mistagged,
        "companions": [place for _, place in _companions_of(row, companions)],
    }


def _yolo_list(out: Path, split: str, domain: str, group: Sequence[ItemRow]) -> str:
    """What dataset.yaml names for one folder: the folder, or a list where some of its images have no labels."""
    path = out / f"{split}_{domain}.txt"
    if all(row.labelled for row in group):
        path.unlink(missing_ok=True)
        return f"{split}/{domain}" if group else ""
    labelled = 0
    with atomic_open(path, "w") as stream:
        for row in group:
            if row.labelled:
                labelled += 1
                stream.write(f"./{split}/{domain}/{row.file}\n")
    return f"{split}_{domain}.txt" if labelled else ""


def _yolo_yaml(lists: dict[tuple[str, str], str], classes: tuple[str, ...]) -> str:
    folders = {split: [lists[split, domain] for domain in DOMAINS if lists[split, domain]] for split in SPLITS}
    note = "Made by nightaug prepare. A is day, B is night; train on one by naming only that folder."
    return yolo.dataset_yaml(folders, classes, note)
