"""Streams of frames from BDD100K's and Scalabel's JSON: typed, in pieces, in little memory.

Both formats are one list of frames, bare or under ``"frames"``; a full BDD100K is 70,000 of them in over a
gigabyte. The file is read in blocks. A block is cut where the next frame seems to begin, and decoded by msgspec
into typed structs that skip the polygons. The cut is a guess; that a piece from a known frame boundary decodes
as whole frames is the proof that it was right, for JSON read from a known state has only one meaning. A wrong guess
fails to decode, and the next guess takes a longer piece; in the end that is the whole file.

What does not fit the types (text for a number, a missing category, ``NaN``) takes a slow path that keeps what
is sound of the piece and counts the rest.
"""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from nightaug.data.formats.base import Problems
from nightaug.data.formats.raw_frames import FrameConverter, RawFrame
from nightaug.data.frames import Frame
from nightaug.data.text import without_surrogates
from nightaug.errors import DatasetError

#: Bytes per piece: long enough that the cut costs nothing, short enough to stay in the processor's cache.
BLOCK = 1 << 18


class _Document(msgspec.Struct, gc=False):
    frames: list[RawFrame]
    config: Any = None


@contextmanager
def no_gc() -> Iterator[None]:
    """Hold the cyclic collector: hundreds of thousands of fresh lists would make it search in vain."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class FrameStream:
    """Iterate over the frames of one label file.

    After the last frame ``problems``, ``converter.unknown`` (categories outside the ten, counted) and ``config`` (the
    ``"config"`` of a Scalabel document, or None) are complete.

    Args:
        path: JSON file: a list of frames, or a document with ``"frames"``.
        problems: where skipped and mended things are counted.
        block: bytes read at a time.

    Raises:
        DatasetError: while iterating, when the file cannot be read as such a list; says where.
    """

    def __init__(self, path: Path, problems: Problems | None = None, block: int = BLOCK) -> None:
        self.path = path
        self.problems = Problems() if problems is None else problems
        self.config: Any = None
        self.layout = "list"
        self._block = block
        self.converter = FrameConverter(self.problems, str(path))
        self._where = 0  # byte offset of the piece being decoded, for messages
        self._list = msgspec.json.Decoder(list[RawFrame])
        self._document = msgspec.json.Decoder(_Document)

    def __iter__(self) -> Iterator[Frame]:
        for piece in self.pieces():
            yield from piece

    def pieces(self) -> Iterator[list[Frame]]:
        """The same frames, some dozens at a time."""
        try:
            with open(self.path, "rb") as file:
                yield from self._read(file)
        except OSError as error:
            raise DatasetError(f"{self.path}: cannot be read ({error.strerror})") from error

    def _read(self, file: BinaryIO) -> Iterator[list[Frame]]:
        first = file.read(self._block)
        if first.startswith(b"\xef\xbb\xbf"):
            first = first[3:]
        head = re.match(rb'\s*(\{\s*"frames"\s*:\s*)?\[\s*(\{\s*"[^"\\]*")', first)
        if head is None:
            # An empty list, a document whose frames come later, or no JSON at all: decode as a whole.
            text = first + file.read()
            if not text.strip():
                raise DatasetError(f"{self.path}: the label file is empty; fetch or export it again")
            yield self._decode(text)
            return
        self.layout = "frames" if head[1] else "list"
        opening = b'{"frames":[' if head[1] else b"["
        start = head[2]  # how a frame begins in this file, spaces included
        # One buffer for the whole file, as fresh memory for every block costs more than reading it. Frames begin at
        # place 1; at place 0 goes the bracket that makes a list of them.
        buffer = bytearray(b"[" + first[head.start(2) :])
        del first
        fill = len(buffer)  # bytes in use
        tried = 1
        while True:
            cut = buffer.rfind(start, tried + 1, fill)
            frames = None
            if cut > 0:
                comma = cut - 1
                while comma > 1 and buffer[comma] in b" \t\r\n":
                    comma -= 1
                if buffer[comma] == 0x2C:
                    frames = self._attempt(buffer, comma)
            if frames is not None:
                self._where += cut - 1
                buffer[1 : fill - cut + 1] = buffer[cut:fill]
                fill -= cut - 1
                tried = 1
                yield frames
            else:
                # No boundary there (or something unsound): look behind it, with as much again to read.
                tried = max(1, fill - len(start))
            room = max(self._block, fill if frames is None else 0)
            if len(buffer) < fill + room:
                buffer.extend(bytes(fill + room - len(buffer)))
            with memoryview(buffer) as view:
                number = file.readinto(view[fill : fill + room])  # type: ignore[attr-defined]
            if not number:
                break
            fill += number
        yield self._decode(opening + bytes(buffer[1:fill]))

    def _attempt(self, buffer: bytearray, comma: int) -> list[Frame] | None:
        """Frames of ``buffer`` up to a comma, or None if these are not whole frames."""
        buffer[comma] = 0x5D  # the closing bracket, for as long as it takes
        try:
            with no_gc(), memoryview(buffer) as view:
                text = view[: comma + 1]
                try:
                    return self.converter.typed(self._list.decode(text))
                except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
                    pass
                try:
                    loose = _sound(bytes(text))
                except (ValueError, RecursionError):
                    return None
                finally:
                    text.release()
            return self.converter.loose(loose)
        finally:
            buffer[comma] = 0x2C

    def _decode(self, text: bytes) -> list[Frame]:
        """Frames of the file's last piece, or of all of it; here errors are final."""
        with no_gc():
            try:
                if text.lstrip()[:1] == b"{":
                    self.layout = "frames"
                    document = self._document.decode(text)
                    self.config = document.config
                    return self.converter.typed(document.frames)
                return self.converter.typed(self._list.decode(text))
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
                pass
            loose = loads(text, self.path, self._where)
            if isinstance(loose, dict):
                self.config = loose.get("config")
                loose = loose.get("frames")
            if not isinstance(loose, list):
                raise DatasetError(f"{self.path}: expected a list of frames; name the right file or pass --format")
            return self.converter.loose(loose)


def _sound(text: bytes) -> Any:
    value = json.loads(text)
    return without_surrogates(value) if b"\\ud" in text or b"\\uD" in text else value


def loads(text: bytes, path: Path, offset: int = 0) -> Any:
    """``json.loads`` that says in one line what is wrong, where, and what to do.

    Raises:
        DatasetError: not UTF-8, not JSON, cut off, or nested too deeply.
    """
    try:
        return _sound(text)
    except RecursionError as error:
        raise DatasetError(f"{path}: nested too deeply to be a label file") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not UTF-8 text at byte {offset + error.start}; save it as UTF-8") from error
    except json.JSONDecodeError as error:
        where = f"byte {offset + error.pos}" if offset else f"line {error.lineno}, column {error.colno}"
        hint = "it ends too early; copy or download it again" if error.pos >= len(text) - 2 else "not valid JSON"
        raise DatasetError(f"{path}: {hint} ({error.msg}, {where})") from error
    except ValueError as error:
        raise DatasetError(f"{path}: not valid JSON ({error})") from error
