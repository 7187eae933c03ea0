"""Images and results in object storage, or wherever else fsspec reaches: ``s3://``, ``gs://``, ``sftp://`` ...

Reading a dataset there starts from its *listing*: a folder on this machine with every label file, and in place of every
image an empty file of the image's size (sparse, it takes no room). What plans a translation looks at names, sizes and
labels; only who translates an image fetches its bytes. Some labels depend on the image's header as well (YOLO's are
fractions of its size, others were drawn on an image stored sideways): the first bytes of those images are fetched too.
"""

from __future__ import annotations

import errno
import os
import posixpath
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from nightaug.data.formats import open_dataset
from nightaug.data.formats.base import safe_name
from nightaug.errors import ConfigError, DatasetError, ImageError
from nightaug.images import IMAGE_SUFFIXES, ImageArray, decode_image, list_images

#: Stores in which an object appears whole or not at all, also under its final name.
_WHOLE_PUTS = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss", "oci", "memory"})
#: File systems whose ``mv`` renames, and in one step over a file that is there. Of others fsspec's packages copy and
#: then remove (webdav, dbfs), refuse a name that is taken (smb), or do not look whether it was done (webhdfs).
_REPLACING = frozenset({"file", "local", "sftp", "ssh"})
#: Names of files on their way there, and seconds after which nobody writes one of them any more.
_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.tmp")
_ABANDONED = 3600.0
#: Label files, as the readers know them.
_LABEL_SUFFIXES = frozenset({".json", ".xml", ".txt", ".yaml", ".yml"})
#: Bytes of an image that hold its header: EXIF blocks end at 64 KB, sizes come right after them.
_HEADER_BYTES = 1 << 17
#: Files fetched in one go.
_FETCHED_AT_ONCE = 256
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*(://|::)")


def is_url(place: str | os.PathLike[str]) -> bool:
    """Whether a place is meant for fsspec: ``s3://bucket/day``, ``file:///data/day``, ``simplecache::s3://...``."""
    return bool(_URL.match(str(place)))


def plain_path(place: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """The path behind ``file:///data/day``, so that all that holds for folders holds there; others as they are.

    Raises:
        ConfigError: a URL of an unknown protocol, or its package is not installed.
    """
    if not is_url(place):
        return place
    system, root = Storage(str(place))._connect()
    return (root or "/") if "file" in _protocols(system) else place


def _protocols(system: Any) -> set[str]:
    """All names of a file system's protocol, as ``s3`` and ``s3a``."""
    return {system.protocol} if isinstance(system.protocol, str) else set(system.protocol)


@dataclass(frozen=True)
class Storage:
    """A folder behind a URL; small, can be sent to other processes, and connects where it is used.

    Attributes:
        url: as given by the user. Keys, endpoints and the like belong into fsspec's own configuration
            (``~/.config/fsspec/*.json`` or ``FSSPEC_S3_...``), where every worker finds them and no manifest does.
    """

    url: str

    def _connect(self) -> tuple[Any, str]:
        """The file system (fsspec keeps one a process) and this folder's path in it.

        Raises:
            ConfigError: an unknown protocol, or its package is not installed.
        """
        from fsspec.core import url_to_fs

        protocol = self.url.split(":", 1)[0]
        try:
            system, root = url_to_fs(self.url)
        except (ImportError, ModuleNotFoundError) as error:
            raise ConfigError(f"{protocol}:// needs a package that is not installed: {error}") from error
        except ValueError as error:
            raise ConfigError(f"{self.url}: {error}; expected s3://, gs://, file:// or another of fsspec's") from error
        return system, str(root).rstrip("/")

    def at(self, name: str) -> str:
        """The URL of a file in this folder, for messages."""
        return f"{self.url.rstrip('/')}/{name}"

    @contextmanager
    def _failing(self, what: str) -> Iterator[None]:
        """Every protocol's package has errors of its own; to us they are one kind, an :class:`OSError`."""
        try:
            yield
        except (ConfigError, FileNotFoundError):
            raise
        except Exception as error:
            number = (error.errno or errno.EIO) if isinstance(error, OSError) else errno.EIO
            raise OSError(number, f"{what}: {str(error) or type(error).__name__}") from error

    def check(self) -> None:
        """Connect, to fail early where nothing can be written, or not so that it is there whole or not at all.

        Raises:
            ConfigError: see :meth:`_connect`; or the protocol cannot replace a file in one step.
        """
        system, _ = self._connect()
        if not _protocols(system) & (_WHOLE_PUTS | _REPLACING):
            raise ConfigError(
                f"{self.url}: files there cannot be replaced in one step, so a fault would leave torn ones; "
                "choose s3://, gs://, abfs://, oss://, oci:// or sftp://, or mount it as a folder"
            )

    def canonical(self) -> tuple[str, str]:
        """What is the same for two URLs of one place: the file system's kind and host, and the path there.

        ``s3a://b//x`` is ``s3://b/x``, and a cache (``simplecache::s3://b/x``) is what it caches.

        Raises:
            ConfigError: see :meth:`_connect`.
        """
        system, root = Storage(self.url.rsplit("::", 1)[-1])._connect()
        if "file" in _protocols(system):
            return _canonical_path(root or "/")
        path = "/" + "/".join(part for part in posixpath.normpath(f"/{root}").split("/") if part)
        return f"{type(system).__name__} {system.storage_options.get('host', '')}", path

    def is_file(self) -> bool:
        """Whether the URL is that of one file."""
        system, root = self._connect()
        with self._failing(self.url):
            return bool(system.isfile(root))

    def sizes(self) -> dict[str, int]:
        """Every file below, by its name relative to this folder with forward slashes, with its size in bytes.

        Empty where there is nothing; names that would leave the folder, and hidden files, are left out.

        Raises:
            OSError: it cannot be listed.
        """
        system, root = self._connect()
        with self._failing(self.url):
            try:
                found = system.find(root, detail=True)
            except FileNotFoundError:
                return {}
        names: dict[str, int] = {}
        for path, info in found.items():
            name = str(path).removeprefix(root).lstrip("/")
            clean, reason = safe_name(name)
            if not reason and clean == name and not any(part.startswith(".") for part in name.split("/")):
                names[name] = int(info.get("size") or 0)
        return names

    def read(self, name: str) -> bytes:
        """The bytes of a file.

        Raises:
            FileNotFoundError: it is not there.
            OSError: it cannot be read.
        """
        system, root = self._connect()
        with self._failing(self.at(name)):
            return bytes(system.cat_file(f"{root}/{name}"))

    def read_image(self, name: str) -> ImageArray:
        """Fetch and decode an image, as :func:`nightaug.images.read_image`.

        Raises:
            ImageError: missing, cannot be fetched, or damaged.
        """
        try:
            data = self.read(name)
        except FileNotFoundError as error:
            raise ImageError(f"{self.at(name)}: no such file") from error
        except OSError as error:
            raise ImageError(f"cannot be fetched ({error.strerror})") from error
        return decode_image(data, self.at(name))

    def heads(self, names: list[str], length: int | None) -> Iterator[tuple[str, bytes]]:
        """The first ``length`` bytes of files (None: all), many at once where the protocol can.

        Raises:
            OSError: one cannot be read.
        """
        system, root = self._connect()
        for first in range(0, len(names), _FETCHED_AT_ONCE):
            some = names[first : first + _FETCHED_AT_ONCE]
            with self._failing(self.url):
                got = system.cat_ranges([f"{root}/{name}" for name in some], [0] * len(some), [length] * len(some))
            for name, data in zip(some, got, strict=True):
                if isinstance(data, Exception):
                    raise OSError(errno.EIO, f"{self.at(name)}: {data}")
                yield name, bytes(data)

    def write(self, name: str, data: bytes) -> None:
        """Put a file so that it is there whole or not at all, whoever looks, and whenever this process dies.

        Object stores promise that of every upload; elsewhere it is written under another name and then renamed.

        Raises:
            OSError: it cannot be written.
        """
        system, root = self._connect()
        path = f"{root}/{name}"
        with self._failing(self.at(name)):
            if _protocols(system) & _WHOLE_PUTS:
                system.pipe_file(path, data)
                return
            folder = path.rsplit("/", 1)[0]
            system.makedirs(folder, exist_ok=True)
            temporary = f"{folder}/.{uuid.uuid4().hex}.tmp"
            try:
                system.pipe_file(temporary, data)
                system.mv(temporary, path)
            except BaseException:
                if system.exists(temporary):
                    system.rm_file(temporary)
                raise

    def remove(self, name: str) -> None:
        """Remove a file; it need not be there.

        Raises:
            OSError: it cannot be removed.
        """
        system, root = self._connect()
        with self._failing(self.at(name)):
            try:
                system.rm_file(f"{root}/{name}")
            except FileNotFoundError:
                pass

    def remove_leftovers(self) -> None:
        """Remove what killed processes were writing; what is younger than an hour may be another machine's.

        Raises:
            OSError: it cannot be listed, or a file not removed.
        """
        system, root = self._connect()
        if _protocols(system) & _WHOLE_PUTS:
            return
        with self._failing(self.url):
            for path, info in system.find(root, detail=True).items():
                written = info.get("mtime") or 0.0
                age = time.time() - (written.timestamp() if isinstance(written, datetime) else float(written))
                if _TEMPORARY.fullmatch(posixpath.basename(path)) and age > _ABANDONED:
                    system.rm_file(path)


def _canonical_path(path: str | os.PathLike[str]) -> tuple[str, str]:
    return "file", os.path.realpath(path)


def check_urls_apart(source: str | os.PathLike[str], out: str | os.PathLike[str]) -> None:
    """Refuse an output that lies in the input or around it; each may be a URL or a path.

    Raises:
        ConfigError: it does, or a URL cannot be used.
    """
    (kind, one), (other_kind, other) = (
        Storage(str(place)).canonical() if is_url(place) else _canonical_path(place) for place in (source, out)
    )
    if kind == other_kind and posixpath.commonpath([one, other]) in (one, other):
        raise ConfigError(f"--out {out} lies in the input {source} or around it; choose another place")


def list_into(storage: Storage, folder: Path) -> tuple[Path, Storage]:
    """Make the listing of a dataset (see the top of this file) in an empty folder.

    Returns:
        What to open as a dataset, and the folder that its images' names are relative to.

    Raises:
        DatasetError: nothing is there, or it cannot be listed.
        ConfigError: the protocol's package is not installed.
    """
    url = PurePosixPath(storage.url.rstrip("/"))
    try:
        if url.suffix.lower() in IMAGE_SUFFIXES and storage.is_file():
            parent = Storage(storage.url.rstrip("/")[: -len(url.name) - 1])
            (folder / url.name).touch()
            return folder / url.name, parent
        sizes = storage.sizes()
        if not sizes:
            raise DatasetError(f"{storage.url}: no such folder, or nothing in it")
        suffixes = {name: PurePosixPath(name).suffix.lower() for name in sizes}
        for name, size in sizes.items():
            path = folder / name
            if suffixes[name] in IMAGE_SUFFIXES | _LABEL_SUFFIXES:
                path.parent.mkdir(parents=True, exist_ok=True)
            if suffixes[name] in IMAGE_SUFFIXES:
                with open(path, "wb") as stream:
                    stream.truncate(size)
            elif suffixes[name] in _LABEL_SUFFIXES:
                path.touch()
        labels = [name for name, size in sizes.items() if size and suffixes[name] in _LABEL_SUFFIXES]
        for name, data in storage.heads(labels, None):
            (folder / name).write_bytes(data)
        headers = [name for name in _with_headers(folder) if sizes[name]]
        for name, data in storage.heads(headers, _HEADER_BYTES):
            with open(folder / name, "r+b") as stream:
                stream.write(data)
    except OSError as error:
        raise DatasetError(f"{storage.url}: cannot be read ({error.strerror or error})") from error
    return folder, storage


def _with_headers(folder: Path) -> list[str]:
    """The images of a listing whose header tells something of their labels."""
    try:
        dataset = open_dataset(folder)
    except DatasetError:
        return []  # who opens it next says so
    names = [
        frame.path.relative_to(folder).as_posix()
        for part in dataset.parts
        for frame in part.labels.frames
        if frame.path is not None and frame.width is not None and frame.width != frame.height
    ]
    if any(part.labels.format == "yolo" for part in dataset.parts):
        names = [path.relative_to(folder).as_posix() for path in list_images(folder)]
    return sorted(set(names))
