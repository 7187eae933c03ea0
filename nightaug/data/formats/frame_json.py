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
from nightaug.errors import DatasetError

#: Bytes per piece: long enough that the cut costs nothing, short enough to stay in the processor's cache.
BLOCK = 1 << 20


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
        buffer = file.read(self._block)
        if buffer.startswith(b"\xef\xbb\xbf"):
            buffer = buffer[3:]
        head = re.match(rb'\s*(\{\s*"frames"\s*:\s*)?\[\s*(\{\s*"[^"\\]*")', buffer)
        at_end = False
        if head is None:
            # An empty list, a document whose frames come later, or no JSON at all: decode as a whole.
            buffer += file.read()
            if not buffer.strip():
                raise DatasetError(f"{self.path}: the label file is empty; fetch or export it again")
            yield self._decode(buffer)
            return
        opening = b'{"frames":[' if head[1] else b"["
        self.layout = "frames" if head[1] else "list"
        start = head[2]  # how a frame begins in this file, spaces included
        buffer = buffer[head.start(2) :]
        step = self._block
        tried = 0
        while not at_end:
            cut = buffer.rfind(start, max(1, tried))
            if cut > 0:
                piece = buffer[:cut].rstrip()
                frames = self._attempt(piece[:-1]) if piece.endswith(b",") else None
                if frames is not None:
                    self._where += cut
                    buffer = buffer[cut:]
                    step, tried = self._block, 0
                    yield frames
                else:
                    # Not a boundary (or not sound): look again after reading as much as there is already.
                    tried = len(buffer) - len(start)
                    step = max(step, len(buffer))
            else:
                tried = max(0, len(buffer) - len(start))
                step = max(step, len(buffer))
            more = file.read(step)
            at_end = not more
            buffer += more
        yield self._decode(opening + buffer)

    def _attempt(self, piece: bytes) -> list[Frame] | None:
        """Frames of a piece, or None if it does not hold whole frames."""
        text = b"[" + piece + b"]"
        with no_gc():
            try:
                return self.converter.typed(self._list.decode(text))
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
                pass
            try:
                loose = json.loads(text)
            except (ValueError, RecursionError):
                return None
            return self.converter.loose(loose)

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


def loads(text: bytes, path: Path, offset: int = 0) -> Any:
    """``json.loads`` that says in one line what is wrong, where, and what to do.

    Raises:
        DatasetError: not UTF-8, not JSON, cut off, or nested too deeply.
    """
    try:
        return json.loads(text)
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
