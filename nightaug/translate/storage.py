"""Images and results in object storage, or wherever else fsspec reaches: ``s3://``, ``gs://``, ``file://`` ...

Reading a dataset there starts from its *listing*: a folder on this machine with every label file, and in place of every
image an empty file of the image's size (sparse, it takes no room). What plans a translation looks at names, sizes and
labels; only who translates an image fetches its bytes. Some labels depend on the image's header as well (YOLO's are
fractions of its size, others were drawn on an image stored sideways): the first bytes of those images are fetched too.
"""

from __future__ import annotations

import errno
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from nightaug.data.formats import open_dataset
from nightaug.data.formats.base import safe_name
from nightaug.errors import ConfigError, DatasetError, ImageError
from nightaug.images import IMAGE_SUFFIXES, ImageArray, decode_image, list_images

#: Stores in which an object appears whole or not at all, also under its final name.
_WHOLE_PUTS = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "oci", "r2", "memory"})
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
        """Connect, to fail early.

        Raises:
            ConfigError: see :meth:`_connect`.
        """
        self._connect()

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

        Object stores promise that of every upload; elsewhere it is written under another name and then moved.

        Raises:
            OSError: it cannot be written.
        """
        system, root = self._connect()
        path = f"{root}/{name}"
        protocols = {system.protocol} if isinstance(system.protocol, str) else set(system.protocol)
        with self._failing(self.at(name)):
            if protocols & _WHOLE_PUTS:
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


def check_urls_apart(source: str, out: str) -> None:
    """Refuse an output that lies in the input or around it.

    Raises:
        ConfigError: it does.
    """
    one, other = source.rstrip("/") + "/", out.rstrip("/") + "/"
    if one.startswith(other) or other.startswith(one):
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
