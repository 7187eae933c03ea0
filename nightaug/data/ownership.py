"""Whose files are in the folder ``prepare`` writes: claiming it, keeping others out, taking away only what is ours.

What prepare has made is known from its manifest and, after an interruption, from the list it writes before the first
file. Everything else in the folder is somebody's and stays, also with ``--overwrite``.
"""

from __future__ import annotations

import contextlib
import json
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from nightaug.data.checks import Look
from nightaug.data.formats.discover import DOMAINS, SPLITS
from nightaug.data.shelf import HashIndex, Rows, Shelf
from nightaug.errors import DatasetError
from nightaug.images import atomic_open, atomic_write_text, remove_leftovers
from nightaug.runs import lock_folder

STATE = "prepare.json"
LOOKS = ".looks.jsonl"
#: Every file an unfinished run has made or is about to make.
PLAN = ".files.jsonl"
_LOCK = ".lock"
LISTS = tuple(f"{split}_{domain}.txt" for split in SPLITS for domain in DOMAINS)
_ANNOTATIONS = tuple(f"annotations/{split}_{domain}.json" for split in SPLITS for domain in DOMAINS)
_FILES = ("dataset.yaml", "manifest.jsonl", "counts.json", "problems.jsonl", *LISTS, *_ANNOTATIONS, PLAN)
#: Names that belong to prepare's folder; where it did not make them, the folder is another dataset.
_OURS = (*SPLITS, "annotations", *LISTS, "dataset.yaml", "manifest.jsonl", "counts.json", "problems.jsonl")


def check_claim(out: Path, settings: dict[str, Any], overwrite: bool) -> dict[str, Any] | None:
    """Whether ``out`` may become ours: new, empty, made by prepare with the same settings, or to be overwritten.

    Returns:
        The settings of the prepare that made it, None where none did. Nothing is changed.

    Raises:
        DatasetError: it holds something else and ``overwrite`` is not given, or somebody's dataset.
    """
    remedy = "choose another --out, or --overwrite"
    try:
        if not out.is_dir() or all(path.name == _LOCK for path in out.iterdir()):
            if out.exists() and not out.is_dir():
                raise DatasetError(f"{out} is a file; choose another --out")
            return None
        before = _settings_before(out)
        if before is None:
            ours = [name for name in _OURS if (out / name).exists()]
            if not overwrite:
                raise DatasetError(f"{out} is not empty and was not made by prepare; {remedy}")
            if ours:
                # Not even on demand: this may be somebody's only copy of their own dataset.
                raise DatasetError(f"{out} holds {ours[0]}, which prepare did not make; choose another --out")
        elif before != settings and not overwrite:
            changed = sorted(key for key in {*before, *settings} if before.get(key) != settings.get(key))
            raise DatasetError(f"{out} was prepared with other settings ({', '.join(changed)}); {remedy}")
        return before
    except OSError as error:
        raise DatasetError(f"{out}: cannot be read ({error.strerror})") from error


@contextlib.contextmanager
def claiming(out: Path, settings: dict[str, Any], overwrite: bool) -> Iterator[Callable[[], None]]:
    """Hold ``out`` against other processes while the block runs.

    Yields:
        A function to call once the new dataset is sure to be made: only then the old one is taken away. A block that
        fails before leaves the folder as it was, and no folder where there was none; an interrupted one (Ctrl-C)
        keeps what it has seen, to go on from there.

    Raises:
        DatasetError: as :func:`check_claim`, or it cannot be written.
        ConfigError: another process is preparing into it.
    """
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    locked_before = (out / _LOCK).exists()
    try:
        lock = lock_folder(out)
    except OSError as error:
        raise DatasetError(f"{out}: cannot be written ({error.strerror})") from error
    sure = False
    try:
        # Again, as another process may have finished meanwhile.
        before = check_claim(out, settings, overwrite)
        looked_before = (out / LOOKS).exists()

        def go() -> None:
            nonlocal sure
            try:
                if before is not None and before != settings:
                    _remove(out)
                _write_state(out, settings)
                remove_leftovers(out)
            except OSError as error:
                raise DatasetError(f"{out}: cannot be written ({error.strerror})") from error
            sure = True

        try:
            if before is None:
                _write_state(out, settings)
            yield go
        except Exception as error:
            if not sure:
                if not looked_before:
                    (out / LOOKS).unlink(missing_ok=True)
                if before is None:
                    (out / STATE).unlink(missing_ok=True)
                if not locked_before:
                    (out / _LOCK).unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise DatasetError(f"{out}: cannot be written ({error.strerror or error})") from error
            raise
    finally:
        lock.close()
        if not sure:
            _remove_empty(made)


def _write_state(out: Path, settings: dict[str, Any], complete: bool = False) -> None:
    atomic_write_text(out / STATE, json.dumps({"complete": complete, "settings": settings}, indent=1))


def complete(out: Path, settings: dict[str, Any]) -> None:
    """Declare the folder complete."""
    _write_state(out, settings, True)
    for name in (LOOKS, PLAN):
        (out / name).unlink(missing_ok=True)


def _settings_before(out: Path) -> dict[str, Any] | None:
    try:
        settings = json.loads((out / STATE).read_bytes())["settings"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return settings if isinstance(settings, dict) else None


def _remove(out: Path) -> None:
    def taken() -> Iterator[str]:
        for name in made_files(out):
            remove_file(out / name)
            yield name

    remove_folders(out, taken())
    for name in _FILES:
        remove_file(out / name)
    _remove_empty(out / split / domain for split in SPLITS for domain in DOMAINS)
    _remove_empty(out / folder for folder in ("annotations", *SPLITS))


def remove_file(path: Path) -> None:
    """Unlink a file or link; folders and what is gone already are left."""
    with contextlib.suppress(FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError):
        path.unlink()


def remove_folders(out: Path, files: Iterable[str]) -> None:
    """Remove the folders these files were in, as far as they are empty."""
    folders = {parent for name in files for parent in Path(name).parents if parent != Path(".")}
    _remove_empty(out / folder for folder in sorted(folders, key=lambda f: -len(f.parts)))


def _remove_empty(folders: Iterable[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def write_plan(out: Path, files: Iterable[str]) -> None:
    """Note the files (relative to ``out``) that are going to be made, or still to be taken away."""
    with atomic_open(out / PLAN) as stream:
        stream.writelines(msgspec.json.encode(name) + b"\n" for name in files)


class _FileRow(msgspec.Struct):
    file: str
    labelled: bool = True
    companions: list[str] = []


def made_files(out: Path) -> Iterator[str]:
    """Images, labels and companions that earlier runs have made, relative to ``out``; some of them twice."""
    return (name for name in _noted_files(out) if _is_inside(name))


def _noted_files(out: Path) -> Iterator[str]:
    row, plain = msgspec.json.Decoder(_FileRow), msgspec.json.Decoder(str)
    for line in _lines(out / "manifest.jsonl"):
        with contextlib.suppress(msgspec.DecodeError, ValueError):
            item = row.decode(line)
            yield item.file
            yield from item.companions
            if item.labelled:
                yield os.path.splitext(item.file)[0] + ".txt"
    for line in _lines(out / PLAN):
        with contextlib.suppress(msgspec.DecodeError, ValueError):
            yield plain.decode(line)


def _is_inside(name: str) -> bool:
    # The lists lie in a folder that others can write to.
    parts = name.split("/")
    return len(parts) > 2 and parts[0] in SPLITS and ".." not in parts and "\0" not in name


def _lines(path: Path) -> Iterator[bytes]:
    with contextlib.suppress(OSError), open(path, "rb") as file:
        yield from file


class _LookRow(msgspec.Struct):
    """The part of a manifest's row that :class:`Looks` needs."""

    source: str
    source_bytes: int
    source_mtime_ns: int
    width: int
    height: int
    luma: float | None
    luma_top: float | None


_LOOK_ROW = msgspec.json.Decoder(_LookRow)


class Looks:
    """What an earlier or interrupted run has seen, of files that have not changed since.

    Args:
        out: the folder prepared; None for nothing.
        shelf: where the looks lie meanwhile.
    """

    def __init__(self, out: Path | None, shelf: Shelf) -> None:
        self._rows: Rows[_LookRow, _LookRow] = Rows(shelf, msgspec.json.encode, _LOOK_ROW.decode, lambda row: row)
        hashes = array("q")
        for name in ("manifest.jsonl", LOOKS) if out is not None else ():
            for line in _lines(Path(out or "") / name):
                try:
                    row = _LOOK_ROW.decode(line)
                    state = os.stat(row.source)
                except (msgspec.DecodeError, ValueError, OSError):
                    continue  # a line cut off by the interruption, or the file is gone
                if (state.st_size, state.st_mtime_ns) == (row.source_bytes, row.source_mtime_ns):
                    self._rows.append(row)
                    hashes.append(hash(row.source))
        self._places = HashIndex(hashes)

    def of(self, source: str) -> Look | None:
        """The last look at a file (absolute path), None where there is none."""
        last = self._places.last(hash(source))
        if last is None:
            return None
        row = self._rows[last]
        if row.source != source:
            return None
        return Look(row.width, row.height, row.luma, row.luma_top, "", row.source_bytes, row.source_mtime_ns)


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
