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
```

Images nobody has labelled have no ``x.txt`` and ``"labelled": false`` in COCO; YOLO would take them for empty
streets, so ``dataset.yaml`` then names lists without them (``{split}_{domain}.txt``).
Every file is written atomically; running again completes what is missing.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import yaml

from nightaug.data.checks import Look
from nightaug.data.companions import Companions
from nightaug.data.formats import coco, yolo
from nightaug.data.formats.base import Problem
from nightaug.data.formats.discover import DOMAINS, SPLITS
from nightaug.data.frames import Frame
from nightaug.data.links import Linker, LinkMode
from nightaug.errors import DatasetError
from nightaug.images import IMAGE_SUFFIXES, atomic_write_bytes, atomic_write_text

STATE = "prepare.json"
LOOKS = ".looks.jsonl"
_LISTS = tuple(f"{split}_{domain}.txt" for split in SPLITS for domain in DOMAINS)
_FILES = ("dataset.yaml", "manifest.jsonl", "counts.json", "problems.jsonl")
_OURS = ("train", "val", "test", "annotations", *_LISTS, *_FILES, STATE, LOOKS)


@dataclass
class Item:
    """A frame on its way into the folder.

    Attributes:
        domain: ``A`` (day) or ``B`` (night).
        given: the split its dataset has it in (``all`` where that has none); ``split`` is where it goes.
        labelled: somebody has looked for objects in it.
        file: its name in the folder, without split and domain.
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


def claim(out: Path, settings: dict[str, Any], overwrite: bool, look_only: bool = False) -> None:
    """Make ``out`` ours: new or empty, or made by prepare with the same settings.

    ``look_only`` only raises, so that a mistake is known before the work and a failed run leaves nothing behind.

    ``overwrite`` takes away what an earlier prepare has written, and adds to a folder of other files; it never
    deletes what something else has made.

    Raises:
        DatasetError: it holds something else and ``overwrite`` is not given, or cannot be written.
    """
    remedy = "choose another --out, or --overwrite"
    try:
        if out.is_dir() and any(out.iterdir()):
            before = _settings_before(out)
            if before is None:
                ours = [name for name in _OURS if (out / name).exists()]
                if not overwrite:
                    raise DatasetError(f"{out} is not empty and was not made by prepare; {remedy}")
                if ours:
                    # Not even on demand: this may be somebody's only copy of their own dataset.
                    raise DatasetError(f"{out} holds {ours[0]}, which prepare did not make; choose another --out")
            elif before != settings:
                if not overwrite:
                    changed = sorted(key for key in {*before, *settings} if before.get(key) != settings.get(key))
                    raise DatasetError(f"{out} was prepared with other settings ({', '.join(changed)}); {remedy}")
                if not look_only:
                    _remove(out)
        if look_only:
            return
        out.mkdir(parents=True, exist_ok=True)
        atomic_write_text(out / STATE, json.dumps({"complete": False, "settings": settings}, indent=1))
    except OSError as error:
        raise DatasetError(f"{out}: cannot be written ({error.strerror})") from error


def _settings_before(out: Path) -> dict[str, Any] | None:
    try:
        settings = json.loads((out / STATE).read_bytes())["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return settings if isinstance(settings, dict) else None


def _remove(out: Path) -> None:
    for name in _OURS:
        path = out / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.exists() or path.is_symlink():
            path.unlink()


def load_looks(out: Path) -> dict[str, Look]:
    """What an earlier or interrupted run has seen, of files that have not changed since."""
    found: dict[str, Look] = {}
    for name in ("manifest.jsonl", LOOKS):
        try:
            lines = (out / name).read_bytes().splitlines()
        except OSError:
            continue
        for line in lines:
            try:
                row = _LOOK_ROW.decode(line)
                state = os.stat(row.source)
            except (msgspec.DecodeError, ValueError, OSError):
                continue  # a line cut off by the interruption, or the file is gone
            if (state.st_size, state.st_mtime_ns) == (row.source_bytes, row.source_mtime_ns):
                found[row.source] = Look(
                    row.width, row.height, row.luma, row.luma_top, "", row.source_bytes, row.source_mtime_ns
                )
    return found


class _LookRow(msgspec.Struct):
    """The part of a manifest's row that :func:`load_looks` needs."""

    source: str
    source_bytes: int
    source_mtime_ns: int
    width: int
    height: int
    luma: float | None
    luma_top: float | None


_LOOK_ROW = msgspec.json.Decoder(_LookRow)


@contextlib.contextmanager
def saving_looks(out: Path | None) -> Iterator[Callable[[Sequence[Path], Sequence[Look]], None] | None]:
    """A function that notes looks in ``out`` as they come; None where nothing may be written."""
    if out is None:
        yield None
        return
    with open(out / LOOKS, "ab") as file:
        file.write(b"\n")  # ends a line that an interruption has cut off

        def save(paths: Sequence[Path], looks: Sequence[Look]) -> None:
            for path, seen in zip(paths, looks, strict=True):
                if not seen.error:
                    source = os.path.abspath(path)
                    row = _LookRow(source, seen.size, seen.modified, seen.width, seen.height, seen.luma, seen.luma_top)
                    file.write(msgspec.json.encode(row) + b"\n")
            file.flush()

        yield save


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
        stem, suffix = os.path.splitext(item.file)
        number = 1
        while (item.split, item.domain, _stem(item)) in taken:
            number += 1
            item.file = f"{stem}-{number}{suffix}"
        taken.add((item.split, item.domain, _stem(item)))
    return len({id(item) for item in renamed})


def _flat(name: str) -> str:
    return name.replace("/", "_")


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
        stale = _write_images(out, groups, linker, classes, companions=companions, step=step, total=len(items))
        lists: dict[tuple[str, str], str] = {}
        for (split, domain), group in groups.items():
            step("write annotations", len(lists), len(groups))
            frames = [_written_frame(item) for item in group]
            coco.write(frames, out / "annotations" / f"{split}_{domain}.json", classes)
            lists[split, domain] = _yolo_list(out, split, domain, group)
        atomic_write_text(out / "dataset.yaml", _yolo_yaml(lists, classes))
        rows = b"".join(msgspec.json.encode(_row(item)) + b"\n" for item in items)
        atomic_write_bytes(out / "manifest.jsonl", rows)
        lines = b"".join(msgspec.json.encode(p._asdict()) + b"\n" for p in problems)
        atomic_write_bytes(out / "problems.jsonl", lines)
        summary = {**summary, "links": dict(linker.used), "files_from_elsewhere": stale}
        atomic_write_text(out / "counts.json", json.dumps(summary, indent=1) + "\n")
        atomic_write_text(out / STATE, json.dumps({"complete": True, "settings": summary["settings"]}, indent=1))
        (out / LOOKS).unlink(missing_ok=True)
    except OSError as error:
        raise DatasetError(f"{out}: cannot be written ({error.strerror or error})") from error
    return dict(linker.used)


def _write_images(
    out: Path,
    groups: dict[tuple[str, str], list[Item]],
    linker: Linker,
    classes: tuple[str, ...],
    *,
    companions: Companions,
    step: Callable[[str, int, int], None],
    total: int,
) -> int:
    """Link images and companions, write YOLO labels; the number of strange files found among them."""
    before = _manifest_files(out)
    numbers = {name: number for number, name in enumerate(classes)}
    done = strange = 0
    for (split, domain), group in groups.items():
        folder = out / split / domain
        folder.mkdir(parents=True, exist_ok=True)
        wanted: set[str] = set()
        for item in group:
            frame = item.frame
            assert frame.path is not None  # frames without an image were counted out
            linker.put(frame.path, folder / item.file)
            wanted.add(item.file)
            stem = os.path.splitext(item.file)[0]
            if item.labelled:
                _write_quick(folder / f"{stem}.txt", yolo.lines(frame, numbers))
                wanted.add(f"{stem}.txt")
            for file, kind, ending in companions.of(frame):
                extra = out / split / f"{domain}_extra" / kind
                extra.mkdir(parents=True, exist_ok=True)
                linker.put(file, extra / f"{stem}{ending}")
            done += 1
            if done % 500 == 0:
                step("link images", done, total)
        for name in os.listdir(folder):
            if name in wanted or os.path.splitext(name)[1].lower() not in IMAGE_SUFFIXES | {".txt", ".tmp"}:
                continue
            # Left by an earlier run whose source has changed, or by a killed one; never a stranger's file.
            if name.endswith(".tmp") or f"{split}/{domain}/{os.path.splitext(name)[0]}" in before:
                os.unlink(folder / name)
            else:
                strange += 1
    step("link images", total, total)
    return strange


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


def _manifest_files(out: Path) -> set[str]:
    """Stems of the files an earlier run made, as ``split/domain/stem``."""
    found: set[str] = set()
    try:
        for line in (out / "manifest.jsonl").read_bytes().splitlines():
            found.add(os.path.splitext(json.loads(line)["file"])[0])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return found


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
    value: dict[str, Any] = {
        split: [lists[split, domain] for domain in DOMAINS if lists[split, domain]] for split in SPLITS
    }
    value["names"] = dict(enumerate(classes))
    note = "# Made by nightaug prepare. A is day, B is night; train on one by naming only that folder.\n"
    return note + yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
