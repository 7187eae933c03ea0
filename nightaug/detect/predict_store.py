"""The output folder of predictions: whose it is, the rows that make it resumable, and the files made from them.

``predictions.jsonl`` gets a line an image (or video frame) as soon as its files are written; COCO's two documents are
made from it at the end, row by row, so that an hour of video needs no more memory than a picture.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec

from nightaug.data.formats.base import shown
from nightaug.data.ownership import remove_file, remove_folders
from nightaug.data.results import link_out
from nightaug.data.text import plain
from nightaug.errors import ConfigError
from nightaug.images import atomic_open, atomic_write_text

#: What ``predict.json`` says the folder is; nothing else is ever gone on with or written over.
KIND = "nightaug predictions"
STATE, ROWS = "predict.json", "predictions.jsonl"
RESULTS, IMAGES, CLASSES = "detections.json", "images.json", "labels/classes.txt"
#: Facts that must be equal for a folder to be gone on with: what was looked at, and with which eyes.
_COMPARED = {"weights_sha256": "another detector", "input": "another input"}


class PredictionRow(msgspec.Struct, gc=False):
    """What is known of one image or frame.

    Attributes:
        name: relative to the input, or the frame's name.
        state: of the image file when it was looked at; another one makes the row void.
        made: with what the files below were made (threshold, classes, kinds of files).
        files: written for it, relative to the folder.
        width, height: pixels.
        boxes: xywh, pixels of the original; every detection of the detector, best first.
        scores, labels: of the boxes; class numbers from 0.
        time: of a frame, seconds from the start.
    """

    name: str
    state: str
    made: str
    files: list[str]
    width: int
    height: int
    boxes: list[tuple[float, float, float, float]]
    scores: list[float]
    labels: list[int]
    time: float | None = None

    def shown(self, score: float, wanted: frozenset[int] | None) -> list[int]:
        """Positions of the detections of at least a score and of the wanted classes (None: all)."""
        return [
            at
            for at, (value, label) in enumerate(zip(self.scores, self.labels, strict=True))
            if value >= score and (wanted is None or label in wanted)
        ]


class Known(NamedTuple):
    """What is remembered of a row without holding it."""

    offset: int
    length: int
    state: str
    made: str
    files: tuple[str, ...]


class Rows:
    """The rows of ``predictions.jsonl``: the newest of each name, found by its place in the file.

    Args:
        out: the folder; the file is made if it is missing. A last line torn by a crash is cut off, one that cannot be
            read is left out.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.known: dict[str, Known] = {}
        self._stream: IO[bytes] = open(out / ROWS, "a+b")  # noqa: SIM115 (closed by close())
        decoder = msgspec.json.Decoder(PredictionRow)
        self._stream.seek(0)
        at = 0
        for line in self._stream:
            if not line.endswith(b"\n"):
                break
            try:
                row = decoder.decode(line)
                self._remember(row, at, len(line))
            except (ValueError, RecursionError):
                pass
            at += len(line)
        self._stream.truncate(at)
        self._end = at
        self._decoder = decoder

    def _remember(self, row: PredictionRow, offset: int, length: int) -> None:
        self.known[row.name] = Known(offset, length, row.state, row.made, tuple(row.files))

    def add(self, row: PredictionRow) -> None:
        """Append a row; from now on it counts, and files that only the former one of its name had are removed."""
        former = self.known.get(row.name)
        if former is not None and not set(former.files) <= set(row.files):
            remove_files(self.out, set(former.files) - set(row.files))
        line = msgspec.json.encode(row) + b"\n"
        self._stream.write(line)
        self._stream.flush()
        self._remember(row, self._end, len(line))
        self._end += len(line)

    def read(self, name: str) -> PredictionRow:
        """The newest row of a name that is in ``known``."""
        known = self.known[name]
        # Its own descriptor position does not matter to the appending writes.
        return self._decoder.decode(os.pread(self._stream.fileno(), known.length, known.offset))

    def keep(self, names: Collection[str]) -> int:
        """Forget all other names and remove the files made for them; how many names these were.

        A file that was made anew for a name that stays is not touched, and what is forgotten is never removed again.
        """
        gone = self.known.keys() - set(names)
        if not gone:
            return 0
        used = {file for name, known in self.known.items() if name not in gone for file in known.files}
        # Files first: killed in between, the rows still say what is left to remove.
        remove_files(self.out, {file for name in gone for file in self.known[name].files} - used)
        known: dict[str, Known] = {}
        at = 0
        with atomic_open(self.out / ROWS) as stream:
            for name, former in self.known.items():
                if name not in gone:
                    stream.write(os.pread(self._stream.fileno(), former.length, former.offset))
                    known[name] = former._replace(offset=at)
                    at += former.length
        self._stream.close()
        self._stream = open(self.out / ROWS, "a+b")  # noqa: SIM115 (closed by close())
        self.known, self._end = known, at
        return len(gone)

    def close(self) -> None:
        self._stream.close()


# -- whose folder it is ----------------------------------------------------------------------------------------------


def read_state(out: Path) -> dict[str, Any] | None:
    """``predict.json`` of a folder of predictions, None for anything else."""
    try:
        state = json.loads((out / STATE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return state if isinstance(state, dict) and state.get("kind") == KIND else None


def write_state(out: Path, facts: Mapping[str, Any]) -> None:
    """Write ``predict.json``."""
    atomic_write_text(out / STATE, json.dumps({"kind": KIND, **facts}, indent=1) + "\n")


def check_apart(source: Path, folders: Sequence[Path], out: Path) -> None:
    """Refuse an output folder that could write over the input, or be read as a part of it next time.

    Args:
        source: the input.
        folders: where its images are, if elsewhere.

    Raises:
        ConfigError: ``out`` is the input, lies in it, or lies around it or its images.
    """
    target, given = os.path.realpath(out), os.path.realpath(source)
    if target == given or (source.is_dir() and target.startswith(given + os.sep)):
        raise ConfigError(f"--out {shown(out)} lies in the input {shown(source)}; choose a folder outside")
    for folder in (source, *folders):
        real = os.path.realpath(folder)
        if real == target or real.startswith(target.rstrip(os.sep) + os.sep):
            raise ConfigError(f"--out {shown(out)} lies around the input {shown(folder)}; choose another folder")


def check_folder(out: Path, facts: Mapping[str, Any], overwrite: bool) -> None:
    """Refuse a folder that holds something else than these predictions; nothing is changed.

    Raises:
        ConfigError: it is a file, holds files of somebody else, or (without ``overwrite``) other predictions.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {shown(out)} is a file; choose a folder")
    before = read_state(out)
    if before is None:
        if out.is_dir() and any(entry.name != ".lock" for entry in out.iterdir()):
            raise ConfigError(f"{shown(out)} is not empty and holds no predictions; choose another --out")
        return
    for key, what in _COMPARED.items():
        if before.get(key) != facts[key] and not overwrite:
            raise ConfigError(
                f"{shown(out)} holds predictions of {what} ({shown(before.get(key))}); "
                "choose another --out, or --overwrite"
            )


def check_links(out: Path, files: Iterable[str]) -> None:
    """Refuse an output folder in which a link leads elsewhere: writing through it would change other files.

    Raises:
        ConfigError: naming the link.
    """
    link = link_out(out, (os.path.dirname(name) for name in files))
    if link is not None:
        raise ConfigError(f"{shown(link)} is a link that leads out of --out; remove it")


def remove_files(out: Path, files: Iterable[str]) -> None:
    """Remove files we made, and their folders where these are empty then; nothing outside the folder."""
    root = os.path.realpath(out)
    names = []
    for name in files:
        folder = os.path.realpath((out / name).parent)
        if folder == root or folder.startswith(root + os.sep):
            remove_file(out / name)
            names.append(name)
    remove_folders(out, names)


def remove_former(out: Path) -> None:
    """Remove what earlier predictions made here, and nothing else."""
    if read_state(out) is None:
        return
    if (out / ROWS).exists():
        rows = Rows(out)
        made = {name for known in rows.known.values() for name in known.files}
        rows.close()
        remove_files(out, made)
    video = (read_state(out) or {}).get("video")
    remove_files(out, [*([video] if isinstance(video, str) else []), RESULTS, IMAGES, CLASSES, ROWS, STATE])


# -- the files -------------------------------------------------------------------------------------------------------


def yolo_text(row: PredictionRow, chosen: Sequence[int]) -> str:
    """``class cx cy w h score`` lines, coordinates as shares of the image's sides."""
    lines = []
    for at in chosen:
        x, y, width, height = row.boxes[at]
        center_x, center_y = (x + width / 2) / row.width, (y + height / 2) / row.height
        lines.append(
            f"{row.labels[at]} {center_x:.6f} {center_y:.6f} {width / row.width:.6f} {height / row.height:.6f} "
            f"{row.scores[at]:.4f}\n"
        )
    return "".join(lines)


def write_classes(out: Path, classes: Sequence[str]) -> None:
    """``labels/classes.txt``: a name a line, in the order of the class numbers."""
    atomic_write_text(out / CLASSES, "".join(plain(name) + "\n" for name in classes))


def write_coco(
    out: Path,
    rows: Rows,
    names: Iterable[str | None],
    classes: Sequence[str],
    wanted: frozenset[int] | None,
    score: float,
    video: str | None,
) -> tuple[int, int]:
    """Write the image list and the results list: image ids are positions in ``names``, category ids in ``classes``.

    Both count from 1. A name of None keeps its number for an image that has no result.

    Returns:
        How many detections there are, and how many of them have at least ``score``.
    """
    total, sure = 0, 0
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, 1)]
    with atomic_open(out / IMAGES) as images, atomic_open(out / RESULTS) as results:
        images.write(b'{"info": {"description": "images of nightaug predict"},\n"images": [')
        results.write(b"[")
        comma = b"\n"
        for image_id, name in enumerate(names, 1):
            if name is None:
                continue
            row = rows.read(name)
            record: dict[str, Any] = {"id": image_id, "file_name": name, "width": row.width, "height": row.height}
            if video is not None:
                record |= {"video": video, "frame": image_id - 1, "time": row.time}
            images.write(comma + msgspec.json.encode(record))
            comma = b",\n"
            for entry in _results(row, image_id, wanted):
                results.write((b",\n" if total else b"\n") + msgspec.json.encode(entry))
                total += 1
                sure += entry["score"] >= score
        images.write(b'\n],\n"annotations": [],\n"categories": ' + msgspec.json.encode(categories) + b"}\n")
        results.write(b"\n]\n")
    return total, sure


def _results(row: PredictionRow, image_id: int, wanted: frozenset[int] | None) -> Iterator[dict[str, Any]]:
    for box, score, label in zip(row.boxes, row.scores, row.labels, strict=True):
        if wanted is None or label in wanted:
            yield {"image_id": image_id, "category_id": label + 1, "bbox": box, "score": score}
