"""Frames on disk instead of in memory: a dataset of any size is prepared in the memory of a small one.

A :class:`Shelf` is files without a name, which are gone when the process ends, however it ends. :class:`Rows` is a
sequence of records on it that is read from the front or by number and never changed in place: a new one is made from
it. In memory stay eight bytes a record. Boxes lie in a file of their own, which most passes over the frames never
touch.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Generic, TypeVar, overload

import msgspec
import numpy as np

from nightaug.data.frames import Box, Frame
from nightaug.data.packed import PackedBoxes

R = TypeVar("R")
T = TypeVar("T")
U = TypeVar("U")
#: Bytes read and written at a time.
_BLOCK = 1 << 18
_encode = msgspec.msgpack.Encoder().encode


class FrameRow(msgspec.Struct, array_like=True, gc=False):
    """A frame as it lies on the shelf: its boxes by place, size in bytes and number."""

    name: str
    place: int
    size: int
    count: int
    width: int | None
    height: int | None
    timeofday: str | None
    weather: str | None
    scene: str | None
    video: str | None
    path: str | None
    labelled: bool | None


_decode_row = msgspec.msgpack.Decoder(FrameRow).decode


class _File:
    """An appended file without a name."""

    def __init__(self, folder: Path | None) -> None:
        self._stream: IO[bytes] = tempfile.TemporaryFile(dir=folder, buffering=_BLOCK)  # noqa: SIM115 (held)
        self.size = 0
        self._flushed = 0

    def append(self, data: bytes) -> int:
        """Where ``data`` now lies."""
        place = self.size
        self._stream.write(data)
        self.size += len(data)
        return place

    def read(self, place: int, size: int) -> bytes:
        if place + size > self._flushed:
            self._stream.flush()
            self._flushed = self.size
        return os.pread(self._stream.fileno(), size, place)

    def close(self) -> None:
        # What is still buffered is not wanted any more, and may be what a full disk refused.
        with contextlib.suppress(OSError):
            self._stream.close()


class ShelvedBoxes(PackedBoxes):
    """A frame's boxes, read each time they are asked for."""

    __slots__ = ("file", "place", "size")

    def __init__(self, file: _File, place: int, size: int, count: int) -> None:
        self.file, self.place, self.size, self._count = file, place, size, count

    def packed_bytes(self) -> bytes:
        return self.file.read(self.place, self.size)


class Rows(Sequence[T], Generic[T, R]):
    """Records on a shelf, in the order they were added.

    Args:
        file: where they lie, one behind the other; None for a file of their own.
        encode: a record to bytes.
        decode: these to the record as it is stored, which is enough for most and costs a tenth.
        restore: that to the whole record.
    """

    def __init__(
        self,
        shelf: Shelf,
        encode: Callable[[T], bytes],
        decode: Callable[[bytes], R],
        restore: Callable[[R], T],
        file: _File | None = None,
    ) -> None:
        self._shelf, self._encode, self._decode, self.restore = shelf, encode, decode, restore
        self._own = file is None
        self._file = shelf.new_file() if file is None else file
        self._starts = array("q")
        self._stop = self._file.size

    def append(self, item: T) -> None:
        data = self._encode(item)
        start = self._file.append(data)
        assert start == self._stop or not self._starts, "the records of two sequences were mixed in one file"
        self._starts.append(start)
        self._stop = start + len(data)

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        return self.restore(self.stored_at(range(len(self))[index]))

    def stored_at(self, index: int) -> R:
        """One record as it is stored; ``index`` from 0."""
        return self._decode(self._file.read(self._starts[index], self._end(index) - self._starts[index]))

    def _end(self, index: int) -> int:
        return self._starts[index + 1] if index + 1 < len(self._starts) else self._stop

    def __iter__(self) -> Iterator[T]:
        return map(self.restore, self.stored())

    def stored(self) -> Iterator[R]:
        """The records as they are stored."""
        index = 0
        while index < len(self):
            start = self._starts[index]
            last = index
            while last + 1 < len(self) and self._starts[last + 1] - start < _BLOCK:
                last += 1
            block = self._file.read(start, self._end(last) - start)
            for number in range(index, last + 1):
                yield self._decode(block[self._starts[number] - start : self._end(number) - start])
            index = last + 1

    def changed(self, change: Callable[[T], T | None]) -> Rows[T, R]:
        """These records with each put through ``change``, without those it gives None for; these here are gone then."""
        return self.replaced(change(item) for item in self)

    def replaced(self, items: Iterable[T | None]) -> Rows[T, R]:
        """The items that are not None, in the place of these records, which may be read until the last item came."""
        file = None if self._own else self._file
        new = Rows(self._shelf, self._encode, self._decode, self.restore, file)
        for item in items:
            if item is not None:
                new.append(item)
        self.close()
        return new

    def close(self) -> None:
        """Give the disk space back, if the file is their own; there is nothing to read any more."""
        if self._own:
            self._shelf.drop(self._file)
        self._starts = array("q")


class Picked(Sequence[U], Generic[R, U]):
    """Some of the records, by number, each as ``view`` shows it, which gets it as it is stored."""

    def __init__(self, rows: Rows[Any, R], numbers: Sequence[int], view: Callable[[R], U]) -> None:
        self._rows, self._numbers, self._view = rows, numbers, view

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> U: ...
    @overload
    def __getitem__(self, index: slice) -> list[U]: ...
    def __getitem__(self, index: int | slice) -> U | list[U]:
        if isinstance(index, slice):
            return [self._view(self._rows.stored_at(number)) for number in self._numbers[index]]
        return self._view(self._rows.stored_at(self._numbers[index]))


class Shelf:
    """Where frames lie while they are sorted; to be closed.

    Args:
        near: a folder that is, or will be, on a disk with room for a copy of the labels; where nothing can be written
            there, the system's folder for temporary files is taken.

    Raises:
        OSError: from here on, when the disk is full.
    """

    def __init__(self, near: Path | None = None) -> None:
        self._folder = _writable(near)
        self._files: list[_File] = []
        self._boxes = self.new_file()
        # One for the frames of all label files: a dataset may have thousands of them.
        self._frames = self.new_file()

    def __enter__(self) -> Shelf:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for file in self._files:
            file.close()

    def new_file(self) -> _File:
        self._files.append(_File(self._folder))
        return self._files[-1]

    def drop(self, file: _File) -> None:
        file.close()
        if file in self._files:
            self._files.remove(file)

    def keep(self, frames: Iterable[Frame]) -> Rows[Frame, FrameRow]:
        """The frames in the order they come; of ``extra`` only ``labelled``, which is all that preparing asks for."""
        rows: Rows[Frame, FrameRow] = Rows(self, self._encode, _decode_row, self.frame, self._frames)
        for frame in frames:
            rows.append(frame)
        return rows

    def forget_frames(self) -> None:
        """Give the disk space of all that was kept back; their boxes stay."""
        self.drop(self._frames)

    def put(self, boxes: Sequence[Box]) -> Sequence[Box]:
        """The boxes, on the shelf; where they lie there already, no second time."""
        if not boxes or (isinstance(boxes, ShelvedBoxes) and boxes.file is self._boxes):
            return boxes
        data = boxes.packed_bytes() if isinstance(boxes, PackedBoxes) else _encode(list(boxes))
        return ShelvedBoxes(self._boxes, self._boxes.append(data), len(data), len(boxes))

    def row(self, frame: Frame) -> FrameRow:
        """A frame as it is written; its boxes are on the shelf from then on."""
        boxes = frame.boxes = self.put(frame.boxes)
        where = (boxes.place, boxes.size, len(boxes)) if isinstance(boxes, ShelvedBoxes) else (0, 0, 0)
        labelled = (frame.extra or {}).get("labelled")
        return FrameRow(
            frame.name, *where, _storable(frame.width), _storable(frame.height), frame.timeofday, frame.weather,
            frame.scene, frame.video, None if frame.path is None else str(frame.path),
            None if labelled is None else bool(labelled),
        )  # fmt: skip

    def boxes(self, row: FrameRow) -> Sequence[Box]:
        """The boxes of a frame as it is stored."""
        return ShelvedBoxes(self._boxes, row.place, row.size, row.count) if row.count else []

    def frame(self, row: FrameRow) -> Frame:
        """What :meth:`row` wrote."""
        boxes = self.boxes(row)
        return Frame(
            row.name, boxes, row.width, row.height, row.timeofday, row.weather, row.scene, row.video,
            None if row.path is None else Path(row.path), None if row.labelled is None else {"labelled": row.labelled},
        )  # fmt: skip

    def _encode(self, frame: Frame) -> bytes:
        return _encode(self.row(frame))


def _storable(pixels: int | None) -> int | None:
    """A size as msgpack takes it: nonsense stays nonsense, and whoever looks at the image says so."""
    return None if pixels is None else min(int(pixels), 1 << 62)


def _writable(near: Path | None) -> Path | None:
    """The nearest folder there is at or above ``near``, None where no file can be made in it."""
    if near is None:
        return None
    folder = near.absolute()
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return None
    return folder


def change(frames: Sequence[Frame], how: Callable[[Frame], Frame | None]) -> Sequence[Frame]:
    """Each frame put through ``how``, without those it gives None for; as long as they are on a shelf, they stay."""
    if isinstance(frames, Rows):
        return frames.changed(how)
    return [new for frame in frames if (new := how(frame)) is not None]


def paths_of(frames: Sequence[Frame]) -> Iterator[str | None]:
    """Every frame's ``path`` as text, without making the frames where they are on a shelf."""
    if isinstance(frames, Rows):
        return (row.path for row in frames.stored())
    return (None if frame.path is None else str(frame.path) for frame in frames)


def repeated(hashes: array[int]) -> frozenset[int]:
    """The numbers (64 bit) that are in there more than once."""
    ordered = np.sort(np.frombuffer(hashes, np.int64)) if hashes else np.empty(0, np.int64)
    return frozenset(ordered[1:][ordered[1:] == ordered[:-1]].tolist())


class HashIndex:
    """Where numbers of 64 bits stand in a list of them."""

    def __init__(self, hashes: array[int]) -> None:
        self._hashes = np.asarray(hashes, np.int64)
        self._order = np.argsort(self._hashes, kind="stable")

    def first(self, value: int) -> int | None:
        """The first place of a number, None where it stands nowhere."""
        return self._place(value, int(np.searchsorted(self._hashes, value, sorter=self._order)))

    def last(self, value: int) -> int | None:
        """Its last place."""
        return self._place(value, int(np.searchsorted(self._hashes, value, side="right", sorter=self._order)) - 1)

    def _place(self, value: int, rank: int) -> int | None:
        place = int(self._order[rank]) if 0 <= rank < len(self._order) else -1
        return place if place >= 0 and int(self._hashes[place]) == value else None


class Hashed:
    """A set of texts in eight bytes each: what is in it is always found, what is not with a chance of 2^-64 times n."""

    def __init__(self, texts: Iterable[Any]) -> None:
        self._hashes = np.sort(np.fromiter(map(hash, texts), np.int64))

    def __contains__(self, text: object) -> bool:
        value = hash(text)
        place = int(np.searchsorted(self._hashes, value))
        return place < len(self._hashes) and int(self._hashes[place]) == value
