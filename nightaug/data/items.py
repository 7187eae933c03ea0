"""Frames on their way into a prepared folder, as they lie on the shelf, and what their files are called there."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgspec

from nightaug.data.checks import Look
from nightaug.data.frames import Frame
from nightaug.data.shelf import FrameRow, HashIndex, Rows, Shelf, repeated

_MAX_NAME = 240  # bytes


@dataclass(slots=True)
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


class ItemRow(msgspec.Struct, array_like=True, gc=False):
    """An item as it is stored; see :class:`Item`."""

    frame: FrameRow
    domain: str
    given: str
    labelled: bool
    drive: str
    split: str
    file: str
    mistagged: bool
    look: Look


Items = Rows[Item, ItemRow]
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(ItemRow).decode


def item_rows(shelf: Shelf) -> Items:
    """No items yet."""

    def encode(item: Item) -> bytes:
        return _encode(
            ItemRow(
                shelf.row(item.frame), item.domain, item.given, item.labelled, item.drive, item.split, item.file,
                item.mistagged, item.look,
            )
        )  # fmt: skip

    def restore(row: ItemRow) -> Item:
        return Item(
            shelf.frame(row.frame), row.domain, row.given, row.labelled, row.drive, row.split, row.file,
            row.mistagged, row.look,
        )  # fmt: skip

    return Rows(shelf, encode, _decode, restore)


def name_files(items: Items) -> tuple[Items, int]:
    """Set ``file`` of every item: the image's base name, longer where two of a folder would share a stem.

    Returns:
        The items, and the number of images that got a longer name.
    """
    naming = _Naming(items)
    # Without two of one name, no name has to be remembered.
    natural = _keys(items, naming.of)
    unique = not repeated(natural)
    places = HashIndex(natural)
    numbered: set[int] = set()
    last_number: dict[int, int] = {}

    def taken(key: int, before: int) -> bool:
        """Whether one of the first ``before`` items has the name."""
        first = places.first(key)
        return key in numbered or (first is not None and first < before)

    def named() -> Iterator[Item]:
        for index, row in enumerate(items.stored()):
            item = items.restore(row)
            item.file = naming.of(row)
            key = own = _key(row, item.file)
            if not unique and taken(key, index):
                stem, suffix = os.path.splitext(item.file)
                number = last_number.get(own, 1)
                while taken(key, index):
                    number += 1
                    item.file = f"{stem}-{number}{suffix}"
                    key = _key(row, item.file)
                numbered.add(key)
                last_number[own] = number
            yield item

    return items.replaced(named()), naming.renamed


class _Naming:
    """The rule for names that fits these items; at most one name is left that several of a folder share."""

    def __init__(self, items: Items) -> None:
        self._by_video = False
        self._doubles: frozenset[int] = frozenset()
        self.renamed = 0
        if repeated(_keys(items, self._first)):
            # With names that repeat in every video, all get the video's name, so that none stands out by chance.
            self._by_video = True
            self._doubles = repeated(_keys(items, self._first))
            self.renamed = sum(_plain(item) != self._first(item) or self._is_double(item) for item in items.stored())

    def of(self, item: ItemRow) -> str:
        name = self._first(item)
        if self._doubles and "/" in item.frame.name and self._is_double(item):
            name = _flat(item.frame.name)
        return _short(name)

    def _first(self, item: ItemRow) -> str:
        name, video = _plain(item), item.frame.video
        return f"{_flat(video)}_{name}" if self._by_video and video and not name.startswith(video) else name

    def _is_double(self, item: ItemRow) -> bool:
        return _key(item, self._first(item)) in self._doubles


def _plain(item: ItemRow) -> str:
    file = item.frame.name.rsplit("/", 1)[-1]
    return file if item.frame.path is None else os.path.splitext(file)[0] + os.path.splitext(item.frame.path)[1]


def _keys(items: Items, name: Callable[[ItemRow], str]) -> array[int]:
    return array("q", (_key(item, name(item)) for item in items.stored()))


def _key(item: ItemRow, file: str) -> int:
    # Lower case: two names that differ in case only are one file on some systems.
    return hash((item.split, item.domain, os.path.splitext(file)[0].lower()))


def _flat(name: str) -> str:
    return name.replace("/", "_")


def _short(name: str) -> str:
    """A name that file systems take (255 bytes), also with a number or ``.txt``: a hash for what was cut off."""
    if len(name.encode()) <= _MAX_NAME:
        return name
    stem, suffix = os.path.splitext(name)
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return f"{stem.encode()[:200].decode('utf-8', 'ignore')}-{digest}{suffix}"
