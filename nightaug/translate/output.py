"""Where a translation goes: a folder, or object storage. What each must do so that nothing is torn, lost or mixed up.

The small files of a translation in object storage (manifest, labels, ``translation.json``) are made in a folder on
this machine and sent: labels and manifest at the end, before that each half minute the manifest's new lines as a file
of their own, since nothing can be appended to an object. The next run collects those.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from nightaug.data.formats import TRANSLATION
from nightaug.data.results import writing
from nightaug.errors import ConfigError, DatasetError
from nightaug.images import atomic_write_bytes, remove_leftovers
from nightaug.runs import lock_folder, user_cache
from nightaug.translate.folder import (
    check_apart,
    check_folder,
    check_links,
    has_content,
    input_folders,
    remove_former,
)
from nightaug.translate.plan import Plan, read_manifest
from nightaug.translate.storage import Storage, check_urls_apart, is_url, plain_path

_KEPT = "images done so far are kept, run again to go on"
_MANIFEST = "manifest.jsonl"
#: New lines of a manifest in object storage, until it is finished.
_LINES = "manifest.lines/"
#: Seconds between two such files: what a machine that dies takes with it.
_EVERY = 30.0
#: Seconds until a file that another machine wrote must be seen here; network file systems remember for up to one
#: minute that there was none.
_SEEN = 75.0


class FolderStore:
    """Images into a folder.

    Args:
        folder: of the output; made absolute, as a process elsewhere has another working folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(os.path.abspath(folder))

    def write(self, name: str, data: bytes) -> None:
        """Write a file atomically."""
        atomic_write_bytes(self.folder / name, data)


class FolderOutput:
    """A translated folder on this machine, or on a disk that all machines share.

    Args:
        folder: made if missing.

    Attributes:
        folder: where manifest, labels and facts are made.
        name: what users call it.
        store: gets the images; small, can be sent to other processes.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.name = str(folder)
        self.store = FolderStore(self.folder)

    @contextmanager
    def held(self, plan: Plan) -> Iterator[None]:
        """A context in which the place is ours, and what the system says of it becomes one line.

        Raises:
            ConfigError: it is in use, lies in the input or around it, or cannot be reached.
            NightaugError: it cannot be written.
        """
        self._check_apart(plan)
        with writing(str(self.folder), _KEPT), lock_folder(self.folder):
            yield

    def _check_apart(self, plan: Plan) -> None:
        if plan.origin is None:
            check_apart(plan.dataset, self.folder)
        else:
            check_urls_apart(plan.origin.url, self.folder)

    def check(self, plan: Plan, facts: Mapping[str, Any], overwrite: bool) -> None:
        """Refuse what :meth:`held` and :meth:`prepare` would, and touch nothing.

        Raises:
            ConfigError: as theirs; whether another process uses the place is not asked.
        """
        self._check_apart(plan)
        if self.folder.is_dir():
            check_folder(self.folder, facts, overwrite)
            check_links(self.folder, plan)

    def prepare(self, plan: Plan, facts: Mapping[str, Any], overwrite: bool) -> None:
        """Refuse a place that cannot take this translation; with ``overwrite`` remove the images of a former one.

        Raises:
            ConfigError: it holds something else.
        """
        check_folder(self.folder, facts, overwrite)
        check_links(self.folder, plan)
        if overwrite:
            remove_former(self.folder)

    def present(self, name: str) -> bool:
        """Whether an image is there, with content."""
        return has_content(self.folder / name)

    def began(self) -> None:
        """The manifest holds the rows of earlier runs, and the facts are written."""
        remove_leftovers(self.folder)

    def arrived(self, name: str) -> None:
        """An image that another process says to have written is here.

        Raises:
            ConfigError: it is not: that process has another disk.
        """
        path, until = self.folder / name, time.monotonic() + _SEEN
        while not has_content(path):
            if time.monotonic() > until:
                raise ConfigError(
                    f"{name} was written by a worker and is not in {self.folder}; "
                    "--out must be on a disk that all machines see, or a URL such as s3://bucket/night"
                )
            with suppress(OSError):
                os.scandir(path.parent).close()  # makes NFS look again
            time.sleep(0.1)

    def grown(self) -> None:
        """The manifest has got a row."""

    def ended(self) -> None:
        """Everything is in ``folder``."""


class StorageOutput:
    """A translated folder in object storage; methods and attributes as :class:`FolderOutput`.

    Two machines that translate into one place at once are the user's own care, as there are no locks. They waste work
    and tear nothing; where both make the same bytes of an image (see :mod:`nightaug.translate.ray_pipeline`) they do no
    harm, otherwise a file may be the one's and its row in the manifest the other's.

    Args:
        url: of the output.
    """

    def __init__(self, url: str) -> None:
        self.name = url.rstrip("/")
        self.folder = Path()  # until held
        self.store = Storage(self.name)
        self._sizes: dict[str, int] = {}
        self._lines = 0  # files of new lines, those of earlier runs among them
        self._safe = 0  # bytes of the manifest that are in storage
        self._last = time.monotonic()

    @contextmanager
    def held(self, plan: Plan) -> Iterator[None]:
        self.store.check()
        for source in [plan.origin.url] if plan.origin is not None else input_folders(plan.dataset):
            check_urls_apart(source, self.name)
        with ExitStack() as stack:
            stack.enter_context(writing(self.name, _KEPT))
            # On one machine at least, two processes must not share an output.
            key = hashlib.sha256(" ".join(self.store.canonical()).encode()).hexdigest()[:32]
            try:
                stack.enter_context(lock_folder(user_cache("outputs") / key))
            except ConfigError:
                raise ConfigError(f"{self.name} is in use by another process; wait for it or choose another") from None
            except (OSError, RuntimeError):
                pass  # no home, or one that cannot be written: without the lock, as between machines
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nightaug-")))
            yield

    def prepare(self, plan: Plan, facts: Mapping[str, Any], overwrite: bool) -> None:
        self._sizes = self.store.sizes()
        if "prepare.json" in self._sizes:
            raise ConfigError(f"{self.name} holds a prepared dataset; choose another --out")
        if self._sizes and TRANSLATION not in self._sizes and not overwrite:
            raise ConfigError(f"{self.name} is not empty and holds no translation; choose another --out")
        lines = sorted(name for name in self._sizes if name.startswith(_LINES))
        if TRANSLATION in self._sizes:
            (self.folder / TRANSLATION).write_bytes(self.store.read(TRANSLATION))
            with open(self.folder / _MANIFEST, "wb") as stream:
                for name in [name for name in (_MANIFEST, *lines) if name in self._sizes]:
                    stream.write(self.store.read(name))
        self._lines = len(lines)
        try:
            check_folder(self.folder, facts, overwrite)
        except ConfigError as error:
            raise ConfigError(str(error).replace(str(self.folder), self.name)) from error
        if overwrite:
            self._remove_former()

    def _remove_former(self) -> None:
        with suppress(DatasetError):  # not a translation's manifest: nothing here is known to be ours
            for row in read_manifest(self.folder):
                if self._sizes.pop(row.output, None) is not None:
                    self.store.remove(row.output)
        for name in [name for name in self._sizes if name == _MANIFEST or name.startswith(_LINES)]:
            self.store.remove(name)
        self._lines = 0
        (self.folder / _MANIFEST).unlink(missing_ok=True)

    def present(self, name: str) -> bool:
        return self._sizes.get(name, 0) > 0

    def arrived(self, name: str) -> None:
        """Nothing to look for: a URL is the same place everywhere."""

    def began(self) -> None:
        self.store.remove_leftovers()
        self.store.write(TRANSLATION, (self.folder / TRANSLATION).read_bytes())
        self._safe = (self.folder / _MANIFEST).stat().st_size  # the rows came from there
        self._last = time.monotonic()

    def grown(self) -> None:
        if time.monotonic() - self._last < _EVERY:
            return
        with open(self.folder / _MANIFEST, "rb") as stream:
            stream.seek(self._safe)
            new = stream.read()
        self._lines += 1
        self.store.write(f"{_LINES}{self._lines:06d}.jsonl", new)
        self._safe += len(new)
        self._last = time.monotonic()

    def ended(self) -> None:
        names = [path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file()]
        # The facts say that all is there, so they go last.
        for name in sorted(names, key=lambda name: (name == TRANSLATION, name == _MANIFEST, name)):
            self.store.write(name, (self.folder / name).read_bytes())
        for number in range(1, self._lines + 1):  # with the whole manifest there, nobody misses them
            self.store.remove(f"{_LINES}{number:06d}.jsonl")


def make_output(out: str | os.PathLike[str] | FolderOutput | StorageOutput) -> FolderOutput | StorageOutput:
    """The place behind a path or a URL; an output stays as it is.

    Raises:
        ConfigError: a URL of an unknown protocol, or its package is not installed.
    """
    if isinstance(out, FolderOutput | StorageOutput):
        return out
    place = plain_path(out)
    return StorageOutput(str(place)) if is_url(place) else FolderOutput(place)
