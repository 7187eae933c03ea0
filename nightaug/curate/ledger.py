"""What curating has changed in a translated folder, so that every change can be finished or undone.

``curated/journal.jsonl`` is written before each change: first what is being done, then a line an image with its
manifest row as it was. Images that are mended are kept under ``curated/originals/``, by hard link where the file system
has them, with an ending that no reader of datasets takes for an image. Whatever moment a run is killed at, the files'
own checksums tell which changes have taken place.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from nightaug.errors import ConfigError, DatasetError
from nightaug.images import atomic_open, atomic_write_bytes
from nightaug.runs import file_sha256
from nightaug.translate.folder import CURATED, JOURNAL, ORIGINALS, remove_curation
from nightaug.translate.plan import ManifestRow

#: What must be equal for a row to be of the same translation as the journal's: all that curating does not change.
_SAME = ("source", "output", "translator", "checkpoint_sha", "direction", "seed", "inputs")


class Header(msgspec.Struct):
    """First line of the journal: the version and a checksum of scores and settings."""

    nightaug: str
    key: str


class Entry(msgspec.Struct):
    """One changed image.

    Attributes:
        output: as in the manifest.
        line: its manifest row before.
        file: SHA-256 of the image before; None where only the row changes.
        mended: SHA-256 of the mended image; None where only the row changes.
    """

    output: str
    line: str
    file: str | None = None
    mended: str | None = None


class Undone(NamedTuple):
    """How many images are as they were before curating, and how many stay as they were translated anew since."""

    restored: int
    anew: int


class Row:
    """A line of the manifest with whatever fields it has.

    Args:
        line: as in the file, without the newline.

    Raises:
        msgspec.DecodeError: not a manifest row.
    """

    def __init__(self, line: bytes) -> None:
        self.line = line
        self.known = msgspec.json.decode(line, type=ManifestRow)
        self.values: dict[str, Any] = msgspec.json.decode(line)

    def changed(self, weight: float, dropped: list[int], sha256: str | None) -> bytes:
        """The line with another weight, dropped boxes and, unless None, checksum; itself where nothing changes."""
        known = self.known
        sha256 = known.sha256 if sha256 is None else sha256
        if (known.weight, known.dropped_boxes, known.sha256) == (weight, dropped, sha256):
            return self.line
        changes = {"sha256": sha256, "weight": weight, "dropped_boxes": dropped}
        return msgspec.json.encode({**self.values, **changes})

    def same_translation(self, other: Row) -> bool:
        return all(getattr(self.known, name) == getattr(other.known, name) for name in _SAME)


def read_rows(folder: Path) -> list[Row]:
    """The manifest of a translated folder.

    Raises:
        DatasetError: there is none, it cannot be read, or it names files outside the folder.
    """
    path = folder / "manifest.jsonl"
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DatasetError(f"{folder}: no translated folder ({path.name} cannot be read: {error.strerror})") from error
    if lines[-1]:  # torn by a crash of translate, which will write it anew
        raise DatasetError(f"{path}: its last line is cut off; run the same nightaug translate again first")
    root = os.path.realpath(folder)
    rows = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            row = Row(line)
        except (ValueError, RecursionError) as error:
            raise DatasetError(f"{path}, line {number}: not a row of a translation's manifest ({error})") from error
        place = os.path.realpath((folder / row.known.output).parent)
        if place != root and not place.startswith(root + os.sep):
            raise DatasetError(f"{path}, line {number}: {row.known.output} lies outside of {folder}")
        rows.append(row)
    return rows


def write_rows(folder: Path, lines: list[bytes]) -> None:
    """Put lines into the manifest, atomically; nothing is written where they are there already."""
    path, data = folder / "manifest.jsonl", b"".join(line + b"\n" for line in lines)
    if path.read_bytes() != data:
        atomic_write_bytes(path, data)


class Ledger:
    """The journal of one translated folder.

    Args:
        folder: the translated folder.

    Raises:
        ConfigError: its place is taken by a link that leads elsewhere, or the journal is of another program.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.place = folder / CURATED
        for path in (self.place, self.place / ORIGINALS):
            if path.is_symlink():
                raise ConfigError(f"{path} is a link; remove it first")
        self.header: Header | None = None
        self.entries: dict[str, Entry] = {}
        self._rows: dict[str, Row] = {}
        self._checksums: dict[str, str | None] = {}
        self._read()

    def _read(self) -> None:
        try:
            first, *lines = (self.place / JOURNAL).read_bytes().split(b"\n")
        except OSError:
            return
        try:
            self.header = msgspec.json.decode(first, type=Header)
            # What stands behind the last newline was torn, so its change has not begun.
            for line in lines[:-1]:
                entry = msgspec.json.decode(line, type=Entry)
                self._rows[entry.output] = Row(entry.line.encode())
                self.entries[entry.output] = entry
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{self.place / JOURNAL}: not a journal of nightaug curate ({error})") from error

    def original(self, output: str) -> Path:
        """Where the image is kept as it was."""
        return self.place / ORIGINALS / f"{output}.original"

    def checksum(self, output: str) -> str | None:
        """SHA-256 of the image as it is now, None where there is none; read once."""
        if output not in self._checksums:
            try:
                self._checksums[output] = file_sha256(self.folder / output)
            except OSError:
                self._checksums[output] = None
        return self._checksums[output]

    def live(self, row: Row) -> Entry | None:
        """The entry of a row's image, None where there is none or the image has been translated anew since.

        The manifest tells, as translating writes a new row. A file's checksum alone does not: an image that was damaged
        or edited after it was mended is another one, too, and its original must not be given up for that.
        """
        entry = self.entries.get(row.known.output)
        if entry is None or not row.same_translation(self._rows[entry.output]):
            return None
        if entry.mended is None or row.known.sha256 == entry.mended:
            return entry
        # Curating writes the manifest last: stopped before, the row is still the one it was.
        if row.known.sha256 != self._rows[entry.output].known.sha256:
            return None
        # The same row is also there where the same translation was made once more, of an image edited before mending.
        now = self.checksum(entry.output)
        return None if now == row.known.sha256 and now != entry.file else entry

    def before(self, row: Row) -> tuple[Row, str | None]:
        """The row as translate wrote it, and the SHA-256 of its image."""
        entry = self.live(row)
        if entry is None:
            return row, self.checksum(row.known.output)
        file = self.checksum(entry.output) if entry.mended is None else entry.file
        return self._rows[entry.output], file

    def unmended(self, output: str) -> Path:
        """The file that holds the image as it was."""
        entry = self.entries.get(output)
        if entry is not None and entry.mended is not None and self.checksum(output) != entry.file:
            kept = self.original(output)
            if kept.is_file():
                return kept
        return self.folder / output

    def keep_original(self, output: str) -> None:
        """Keep the image as it is now, before it is changed."""
        kept = self.original(output)
        source = self.unmended(output)
        if source == kept:
            return
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.unlink(missing_ok=True)
        try:
            os.link(source, kept)
        except OSError:  # a file system without hard links, or another disk below
            _copy(source, kept)

    @contextmanager
    def begin(self, header: Header, kept: Mapping[str, Entry]) -> Iterator[_Journal]:
        """Start the journal anew with the entries that still hold, and let more be added."""
        lines = [msgspec.json.encode(header), *(msgspec.json.encode(entry) for entry in kept.values())]
        data = b"".join(line + b"\n" for line in lines)
        path = self.place / JOURNAL
        if not path.is_file() or path.read_bytes() != data:
            atomic_write_bytes(path, data)
        self.header, self.entries = header, dict(kept)
        with open(path, "ab") as stream:
            yield _Journal(self, stream)

    def replaced(self, output: str, sha256: str) -> None:
        """Note what an image's checksum is now."""
        self._checksums[output] = sha256

    def repair(self, rows: list[Row]) -> None:
        """Put the originals of mended images back that are missing, damaged or edited since, to be mended again.

        Raises:
            DatasetError: an original is no longer there; nothing is changed then.
        """
        live = [entry for row in rows if (entry := self.live(row)) is not None]
        self._restore([entry for entry in live if self.checksum(entry.output) != entry.mended])

    def _restore(self, entries: list[Entry]) -> None:
        """Put the originals of those entries back that are of mended images."""
        changed = [one for one in entries if one.mended is not None and self.checksum(one.output) != one.file]
        for entry in changed:
            if not self.original(entry.output).is_file():
                raise DatasetError(
                    f"{self.original(entry.output)} is not there; remove {self.folder / entry.output} and run the same "
                    "nightaug translate again, then undo"
                )
        for entry in changed:
            _restore(self.original(entry.output), self.folder / entry.output)
            self._checksums[entry.output] = entry.file

    def undo(self) -> Undone:
        """Give every image and row back what it had before; an image translated anew since stays as it is.

        Raises:
            DatasetError: an original is no longer there; nothing is changed then.
        """
        if self.header is None:
            remove_curation(self.folder, scores=False)
            return Undone(0, 0)
        rows = read_rows(self.folder)
        live = [entry for row in rows if (entry := self.live(row)) is not None]
        lines = [self.before(row)[0].line for row in rows]
        self._restore(live)
        write_rows(self.folder, lines)
        remove_curation(self.folder, scores=False)
        undone, self.header = Undone(len(live), len(self.entries) - len(live)), None
        self.entries, self._rows, self._checksums = {}, {}, {}
        return undone


class _Journal:
    """Adds lines, each on disk before its change begins."""

    def __init__(self, ledger: Ledger, stream: Any) -> None:
        self.ledger, self.stream = ledger, stream

    def add(self, *entries: Entry) -> None:
        self.stream.write(b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries))
        self.stream.flush()
        os.fsync(self.stream.fileno())
        for entry in entries:
            self.ledger.entries[entry.output] = entry


def _copy(source: Path, target: Path) -> None:
    with open(source, "rb") as stream, atomic_open(target, "wb") as out:
        shutil.copyfileobj(stream, out)


def _restore(kept: Path, target: Path) -> None:
    """Put the kept file back under its name, atomically; the kept one stays until all is done."""
    if not kept.is_file():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = kept.with_name(".undo.tmp")  # among the originals, with which it goes
    temporary.unlink(missing_ok=True)
    try:
        os.link(kept, temporary)
    except OSError:
        _copy(kept, target)
        return
    os.replace(temporary, target)
    with suppress(FileNotFoundError):  # replacing a file by a link to itself leaves both names
        temporary.unlink()
