"""The files a region cache is made of, and the index over them.

A segment is one file, written whole and renamed into place, never changed: a killed process leaves whole segments only.
It holds, for some images, every box that was considered and the embeddings of those that were large enough. Opening a
cache reads the images' keys (about 50 bytes an image, numpy arrays); boxes and embeddings stay on disk, mapped.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightaug.images import atomic_open

#: 16 bytes that stand for an image's content, or for a file at a place, as two words.
Key = NDArray[np.uint64]
SUFFIX = ".seg"
_MAGIC = b"naregion"
_ALIGN = 64
#: Memory maps held open at once: each holds a file descriptor.
_OPEN_MAPS = 64
#: A file changed less than this many seconds ago could change again within the clock's grain: its place is not trusted.
_SETTLED = 2.0
#: Temporary files this old, in seconds, were left by a killed process.
_ABANDONED = 600.0
_INDEX = ("content", "place", "offset")


def content_key(path: str | os.PathLike[str]) -> Key:
    """Key of a file's bytes, (2,).

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as stream:
        digest = hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).digest()
    return np.frombuffer(digest, np.uint64)


def place_key(path: str | os.PathLike[str], status: os.stat_result) -> Key:
    """Key of a file's path, size and time of change, (2,): where it is equal the content need not be read again."""
    text = f"{os.path.abspath(path)}\0{status.st_size}\0{status.st_mtime_ns}"
    return np.frombuffer(hashlib.blake2b(os.fsencode(text), digest_size=16).digest(), np.uint64)


def settled(status: os.stat_result) -> bool:
    """Whether the file has not changed for so long that its time of change tells every version apart."""
    return time.time() - status.st_mtime > _SETTLED


class SegmentWriter:
    """Collects images, their boxes and embeddings in memory until :meth:`write`.

    Args:
        width: numbers an embedding.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.clear()

    def clear(self) -> None:
        self._content: list[Key] = []
        self._place: list[Key] = []
        self._boxes: list[NDArray[np.int32]] = []
        self._row: list[NDArray[np.int32]] = []
        self._rows: list[NDArray[np.float16]] = []
        self._next = 0
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._content)

    def add_image(self, content: Key, place: Key | None, boxes: NDArray[np.int32], kept: NDArray[np.bool_]) -> None:
        """Add an image; one embedding for each kept box must follow, in order, before :meth:`write`."""
        count = int(kept.sum())
        row = np.full(len(boxes), -1, np.int32)
        row[kept] = np.arange(self._next, self._next + count, dtype=np.int32)
        self._next += count
        self._content.append(content)
        self._place.append(np.zeros(2, np.uint64) if place is None else place)
        self._boxes.append(boxes)
        self._row.append(row)
        self.bytes += 48 + 20 * len(boxes)

    def add_rows(self, rows: NDArray[np.float16]) -> None:
        """Add embeddings (P, width) of the boxes added before."""
        self._rows.append(rows)
        self.bytes += rows.nbytes

    def write(self, folder: Path) -> Path:
        """Write everything as one new segment and forget it here.

        Raises:
            OSError: the disk is full or not writable; nothing is left there then.
        """
        counts = [len(boxes) for boxes in self._boxes]
        arrays: dict[str, NDArray[Any]] = {
            "content": np.array(self._content, np.uint64).reshape(-1, 2),
            "place": np.array(self._place, np.uint64).reshape(-1, 2),
            "offset": np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64),
            "boxes": np.concatenate([np.zeros((0, 4), np.int32), *self._boxes]),
            "row": np.concatenate([np.zeros(0, np.int32), *self._row]),
            "rows": np.concatenate([np.zeros((0, self.width), np.float16), *self._rows]),
        }
        assert len(arrays["rows"]) == self._next, f"{self._next} boxes but {len(arrays['rows'])} embeddings"
        facts = {name: [str(array.dtype), list(array.shape)] for name, array in arrays.items()}
        header = json.dumps({"arrays": facts, "crc": _crc(arrays)}).encode()
        path = folder / f"{time.time_ns():020d}-{os.getpid()}-{os.urandom(3).hex()}{SUFFIX}"
        with atomic_open(path, "wb") as stream:
            stream.write(_MAGIC + len(header).to_bytes(8, "little") + header)
            for array in arrays.values():
                stream.write(b"\0" * (-stream.tell() % _ALIGN))
                stream.write(array.data if array.size else b"")
            stream.flush()
            os.fsync(stream.fileno())  # a rename may reach the disk before the data do
        self.clear()
        return path


def _crc(arrays: dict[str, NDArray[Any]]) -> int:
    value = 0
    for name in _INDEX:
        value = zlib.crc32(np.ascontiguousarray(arrays[name]).tobytes(), value)
    return value


@dataclass
class Segment:
    """An opened segment; boxes and embeddings are read through :meth:`Index.maps`.

    Attributes:
        content, place: (M, 2) keys of its images.
        offset: (M + 1,) where each image's boxes begin.
        at: array name -> (byte offset, dtype, shape).
    """

    path: Path
    content: NDArray[np.uint64]
    place: NDArray[np.uint64]
    offset: NDArray[np.int64]
    at: dict[str, tuple[int, str, tuple[int, ...]]]


def open_segment(path: Path) -> Segment | None:
    """A segment's index, or None where the file is not a whole segment."""
    try:
        with open(path, "rb") as stream:
            start = stream.read(16)
            length = int.from_bytes(start[8:], "little")
            if start[:8] != _MAGIC or length > 1 << 16:
                return None
            header = json.loads(stream.read(length))
            end = 16 + length
            at: dict[str, tuple[int, str, tuple[int, ...]]] = {}
            for name, (kind, shape) in header["arrays"].items():
                end += -end % _ALIGN
                at[name] = (end, kind, tuple(shape))
                end += int(np.prod(shape, dtype=np.int64)) * np.dtype(kind).itemsize
            if os.fstat(stream.fileno()).st_size != end:
                return None
            arrays = {}
            for name in _INDEX:
                offset, kind, shape = at[name]
                stream.seek(offset)
                size = int(np.prod(shape, dtype=np.int64))
                arrays[name] = np.fromfile(stream, kind, size).reshape(shape)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if _crc(arrays) != header.get("crc"):
        return None
    return Segment(path, arrays["content"], arrays["place"], arrays["offset"], at)


@dataclass
class Maps:
    """A segment's arrays, memory-mapped: ``boxes`` (B, 4) int32, ``row`` (B,) int32, ``rows`` (R, W) float16."""

    boxes: NDArray[np.int32]
    row: NDArray[np.int32]
    rows: NDArray[np.float16]


class Index:
    """All segments of a folder, searchable by content and by place.

    Attributes:
        segments: oldest first.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.segments: list[Segment] = []
        self._names: set[str] = set()
        self._maps: OrderedDict[int, Maps] = OrderedDict()
        self._merge()

    def __getstate__(self) -> dict[str, Any]:
        # Maps are opened anew in another process: pickling one would copy its file.
        return {**self.__dict__, "_maps": OrderedDict()}

    def refresh(self) -> bool:
        """Take up segments that were written since; True if there were any."""
        new = sorted(
            name for name in os.listdir(self.folder) if name.endswith(SUFFIX) and not name.startswith(".")
        )  # fmt: skip
        opened = [open_segment(self.folder / name) for name in new if name not in self._names]
        self._names.update(new)
        found = [segment for segment in opened if segment is not None]
        self.segments += found
        if found:
            self._merge()
        return bool(found)

    def _merge(self) -> None:
        none = np.zeros((0, 2), np.uint64)
        counts = [len(segment.content) for segment in self.segments]
        content = np.concatenate([none, *(segment.content for segment in self.segments)])
        place = np.concatenate([none, *(segment.place for segment in self.segments)])
        number = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        entry = np.concatenate([np.zeros(0, np.int32), *(np.arange(count, dtype=np.int32) for count in counts)])
        order = np.argsort(content[:, 0], kind="stable")
        self._content, self._number, self._entry = content[order], number[order], entry[order]
        trusted = place.any(axis=1)
        place, owner = place[trusted], content[trusted]
        order = np.argsort(place[:, 0], kind="stable")
        self._place, self._owner = place[order], owner[order]

    def content_at(self, place: Key) -> Key | None:
        """Content of the file that was seen at a place, or None."""
        first, last = np.searchsorted(self._place[:, 0], place[0], "left"), len(self._place)
        while first < last and self._place[first, 0] == place[0]:
            if self._place[first, 1] == place[1]:
                owner: Key = self._owner[first]
                return owner
            first += 1
        return None

    def entries(self, content: Key) -> list[tuple[int, int]]:
        """(segment, image in it) of every entry about an image, oldest first."""
        first, last = np.searchsorted(self._content[:, 0], content[0], "left"), len(self._content)
        found = []
        while first < last and self._content[first, 0] == content[0]:
            if self._content[first, 1] == content[1]:
                found.append((int(self._number[first]), int(self._entry[first])))
            first += 1
        return found

    def maps(self, number: int) -> Maps:
        """The arrays of a segment, mapped; the longest unused maps are closed. Any thread may ask.

        Another thread may close a segment between two of these lines: nothing is looked up twice.
        """
        found = self._maps.pop(number, None)
        if found is None:
            segment = self.segments[number]
            found = Maps(*(_map(segment, name) for name in ("boxes", "row", "rows")))
        self._maps[number] = found
        with contextlib.suppress(KeyError):
            while len(self._maps) > _OPEN_MAPS:
                self._maps.popitem(last=False)
        return found

    @property
    def images(self) -> int:
        """Entries; an image whose boxes came in several fills counts once for each."""
        return len(self._content)

    @property
    def rows(self) -> int:
        """Embeddings."""
        return sum(segment.at["rows"][2][0] for segment in self.segments)


def _map(segment: Segment, name: str) -> NDArray[Any]:
    offset, kind, shape = segment.at[name]
    if 0 in shape:  # an empty range cannot be mapped
        return np.zeros(shape, kind)
    return np.memmap(segment.path, kind, "r", offset, shape)


def remove_abandoned(folder: Path) -> None:
    """Remove what killed processes had half written."""
    for path in folder.glob(f".*{SUFFIX}*.tmp"):
        try:
            if time.time() - path.stat().st_mtime > _ABANDONED:
                path.unlink()
        except OSError:
            continue  # another process was faster
