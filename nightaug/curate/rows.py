"""What was measured of each image, kept line by line beside the scores: a second run goes on where the first ended."""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import msgspec

from nightaug.curate.judge import Detected
from nightaug.errors import ConfigError
from nightaug.images import atomic_open

#: Raised when the same images would give other numbers: rows of before are then measured anew.
ROW_VERSION = 2


class PairRow(msgspec.Struct, tag="pair", kw_only=True, omit_defaults=True):
    """A source image and its translation.

    Attributes:
        key: of both images, the boxes and the settings.
        sha256: of the translated file.
        width, height: of the translation, pixels.
        day, night, dim: what the judge sees in source, translation and a dim copy of the source; None without one.
        structure: agreement of edges in each box of the frame; None where there is nothing to compare.
        whole: likewise in the image.
        lamps: xyxy and peak of the spots the source does not show.
        spots: lamp-like spots outside the boxes, also those that the source shows.
        statistics: of the source, of a dim copy of it, and of the translation, for the day/night classifier.
        features: extractor -> vectors of source and translation.
        distances: extractor -> structure distance.
    """

    key: str
    sha256: str
    width: int
    height: int
    day: Detected | None = None
    night: Detected | None = None
    dim: Detected | None = None
    structure: list[float | None]
    whole: float | None = None
    lamps: list[tuple[float, float, float, float, float]]
    spots: int
    statistics: tuple[list[float], list[float], list[float]]
    features: dict[str, tuple[str, str]] = msgspec.field(default_factory=dict)
    distances: dict[str, float | None] = msgspec.field(default_factory=dict)


class RealRow(msgspec.Struct, tag="real", kw_only=True, omit_defaults=True):
    """A real night image; fields as in :class:`PairRow`."""

    key: str
    detected: Detected | None = None
    spots: int
    statistics: list[float]
    features: dict[str, str] = msgspec.field(default_factory=dict)


Row = PairRow | RealRow


def row_key(*facts: Any) -> str:
    """A key of everything a row depends on."""
    return hashlib.sha256(json.dumps([ROW_VERSION, *facts]).encode()).hexdigest()[:32]


class Rows:
    """The rows of a file, and a place to add more.

    Attributes:
        known: key -> row, of all runs so far.
        added: how many this run has measured.
    """

    def __init__(self, stream: IO[bytes], known: dict[str, Row]) -> None:
        self.known, self.added = known, 0
        self._stream = stream

    def add(self, row: Row) -> None:
        """Keep a row; it is in the file when this returns."""
        self.known[row.key] = row
        self._stream.write(msgspec.json.encode(row) + b"\n")
        self._stream.flush()
        self.added += 1


def rows_path(out: Path) -> Path:
    """Where the rows of a file of scores lie: ``x.json`` has ``x.rows.jsonl``."""
    return out.with_name(f"{out.stem}.rows.jsonl")


@contextmanager
def open_rows(path: Path) -> Iterator[Rows]:
    """The rows of a file, claimed for this process; what a crash has torn is left out.

    Raises:
        ConfigError: another process writes them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(f".{path.name}.lock"), "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"{path} is being written by another process; wait, or choose another --out") from error
        except OSError:
            pass  # a file system without locks
        known, torn = _read(path)
        if torn:
            with atomic_open(path, "wb") as stream:
                stream.writelines(msgspec.json.encode(row) + b"\n" for row in known.values())
        with open(path, "ab") as stream:
            yield Rows(stream, known)


def _read(path: Path) -> tuple[dict[str, Row], bool]:
    """Rows by key, and whether some lines are none (or rows of another version)."""
    if not path.exists():
        return {}, False
    decoder: msgspec.json.Decoder[Row] = msgspec.json.Decoder(Row)
    known: dict[str, Row] = {}
    torn = False
    with open(path, "rb") as stream:
        for line in stream:
            try:
                row = decoder.decode(line)
            except (ValueError, RecursionError):
                torn = True
                continue
            torn |= not line.endswith(b"\n")
            known[row.key] = row
    return known, torn
