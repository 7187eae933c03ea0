"""COCO's JSON in pieces, in little memory: BDD100K's annotations as objects at once would take over a gigabyte.

A COCO file is one object whose large members are lists of objects: images, annotations, categories. The file is read in
blocks. A block is cut where the next entry of a list seems to begin, or where the list seems to end, and decoded by
msgspec. As in frame_json.py the cut is a guess, and that the piece from a known boundary decodes as whole entries is
the proof. What cannot be read so (values of wrong types, damage, entries that hold many others which begin as they
themselves do) is :class:`Unusual`: such files are read at once.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Container, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any

import msgspec

from nightaug.data.formats.frame_json import no_gc
from nightaug.errors import DatasetError

#: Bytes read at a time.
BLOCK = 1 << 18
#: A value that is no list of objects (``info``) is small, or the file is no plain COCO.
_MAX_VALUE = 1 << 22
#: Of so many places where a list or a value may end, one is the right one.
_GUESSES = 100
_KEY = re.compile(rb'\s*[{,]\s*"([^"\\]*)"\s*:\s*')
_END = re.compile(rb"\s*\}\s*")
_LIST = re.compile(rb'\[\s*(?:(\])|(\{\s*"[^"\\]*"))')
#: The end of a list of objects, and the next key or the end of the file; entries may hold such lists themselves, but
#: hardly before one of COCO's own keys.
_LIST_END = re.compile(rb'\}\s*(\])\s*(?:,\s*"[^"\\]*"\s*:|\})')
_OWN_LIST_END = re.compile(rb'\}\s*(\])\s*(?:,\s*"(?:images|annotations|categories|info|licenses|type)"\s*:|\}\s*\Z)')
# No white space at their beginning: a long run of it would be searched from each of its places.
_VALUE_END = re.compile(rb',\s*"[^"\\]*"\s*:|\}')
_ANYTHING = msgspec.json.Decoder()
_UNREAD = msgspec.json.Decoder(msgspec.Raw)
_UNREAD_LIST = msgspec.json.Decoder(list[msgspec.Raw])


class Unusual(Exception):
    """The file has to be read at once."""


class _Window:
    """A part of the file; ``data[place:]`` is still to be read."""

    def __init__(self, file: _Readable) -> None:
        self._file = file
        self.data = file.read(BLOCK)
        self.place = 3 if self.data.startswith(b"\xef\xbb\xbf") else 0
        self.whole = len(self.data) < BLOCK  # the end of the file is in it

    def more(self) -> None:
        """Read on, by as much as is still to be read, so that a long entry is not searched too often."""
        if self.whole:
            raise Unusual
        rest = self.data[self.place :]
        wanted = max(BLOCK, len(rest))
        new = self._file.read(wanted)
        self.data, self.place, self.whole = rest + new, 0, len(new) < wanted

    def match(self, pattern: re.Pattern[bytes]) -> re.Match[bytes] | None:
        """The pattern at the place, read on until it is whole; None where something else stands there."""
        while not self.whole and len(self.data) - self.place < BLOCK // 2:
            self.more()
        return pattern.match(self.data, self.place)


class _Readable:
    """The file, whose errors name it; what goes wrong where its entries are kept is not its error."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = open(path, "rb")  # noqa: SIM115 (closed by who asked for it)
        except OSError as error:
            raise DatasetError(f"{path}: cannot be read ({error.strerror})") from error

    def read(self, size: int) -> bytes:
        try:
            return self._file.read(size)
        except OSError as error:
            raise DatasetError(f"{self._path}: cannot be read ({error.strerror})") from error

    def close(self) -> None:
        self._file.close()


def members(path: Path, lists: Mapping[str, type[Any]], values: Container[str] = ()) -> Iterator[tuple[str, Any]]:
    """The members of a COCO file in its order, as (key, value).

    Args:
        lists: key -> type of the entries of a list, which come as lists of some of them, at least one list each.
        values: keys of other members that are wanted; of all else no more is asked than that it is JSON.

    Raises:
        Unusual: see above; at any time.
        DatasetError: it cannot be read.
    """
    decoders = {key: msgspec.json.Decoder(list[kind]) for key, kind in lists.items()}  # type: ignore[valid-type]
    seen: set[bytes] = set()
    with contextlib.closing(_Readable(path)) as file:
        window = _Window(file)
        while (key := window.match(_KEY)) is not None:
            # A second list of the same name would replace the first.
            if key[1] in seen or (not seen) != (key[0].lstrip()[:1] == b"{"):
                raise Unusual
            seen.add(key[1])
            window.place = key.end()
            name = key[1].decode("utf-8", "replace")
            if name in decoders:
                for piece in _entries(window, decoders[name]):
                    yield name, piece
            elif name in values:
                yield name, _value(window, _ANYTHING)
            elif window.match(_LIST):
                for _ in _entries(window, _UNREAD_LIST):
                    pass
            else:
                _value(window, _UNREAD)
        end = window.match(_END)
        if end is None or end.end() < len(window.data) or not window.whole or not seen:
            raise Unusual


def _entries(window: _Window, decoder: msgspec.json.Decoder[list[Any]]) -> Iterator[list[Any]]:
    """The entries of the list at the place, which is behind the list then."""
    head = window.match(_LIST)
    if head is None:
        raise Unusual
    if head[1]:
        window.place = head.end()
        yield []
        return
    start = head[2]  # how an entry begins in this file, spaces included
    window.place = head.start(2)
    while True:
        cut = window.data.rfind(start, window.place + 1)
        comma = len(window.data[window.place : cut].rstrip()) + window.place - 1 if cut > 0 else -1
        found = None
        if comma > window.place and window.data[comma] == 0x2C:
            found = _decoded(window, comma, decoder)
        if found is not None:
            window.place = cut
            yield found
            continue
        own = _OWN_LIST_END.finditer(window.data, window.place)
        other = _LIST_END.finditer(window.data, window.place)
        for end in chain(islice(own, _GUESSES), islice(other, _GUESSES)):
            found = _decoded(window, end.start(1), decoder)
            if found is not None:
                window.place = end.end(1)
                yield found
                return
        window.more()


def _decoded(window: _Window, end: int, decoder: msgspec.json.Decoder[list[Any]]) -> list[Any] | None:
    try:
        with no_gc():
            return decoder.decode(b"[" + window.data[window.place : end] + b"]")
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None


def _value(window: _Window, decoder: msgspec.json.Decoder[Any]) -> Any:
    """Any other value at the place, which is behind it then."""
    while True:
        for end in islice(_VALUE_END.finditer(window.data, window.place), _GUESSES):
            try:
                value = decoder.decode(window.data[window.place : end.start()])
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
                continue
            window.place = end.start()
            return value
        if len(window.data) - window.place > _MAX_VALUE:
            raise Unusual
        window.more()
