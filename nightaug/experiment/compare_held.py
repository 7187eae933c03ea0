"""What no arm may train on: drives of dev and of the held splits, and copies of their images under any other name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from nightaug.data.formats.discover import SPLITS
from nightaug.runs import file_sha256


def _size(path: Path | None) -> int | None:
    try:
        return None if path is None else path.stat().st_size
    except OSError:
        return None


@dataclass
class Held:
    """Drives and files that are kept for choices and tests.

    Attributes:
        drives: keys of :func:`nightaug.data.splits.find_drives`.
        files: size in bytes -> images of these drives.
    """

    drives: frozenset[str]
    files: Mapping[int, list[Path]]
    _sums: dict[Path, str] = field(default_factory=dict)

    @classmethod
    def of(cls, drives: Iterable[str], images: Iterable[tuple[str, Path | None]]) -> Held:
        """Hold ``drives``; ``images`` are drive and file of all images there are."""
        held, files = frozenset(drives), defaultdict(list)
        for drive, path in images:
            size = _size(path) if drive in held else None
            if size is not None and path is not None:
                files[size].append(path)
        return cls(held, files)

    def copies(self, path: Path) -> bool:
        """Whether a file is byte for byte an image that is held; only files of equal size are read."""
        alike = self.files.get(_size(path) or 0)
        return alike is not None and self._sum(path) in {self._sum(other) for other in alike}

    def _sum(self, path: Path) -> str:
        if path not in self._sums:
            self._sums[path] = file_sha256(path)
        return self._sums[path]


def places_by_name(places: Iterable[str]) -> dict[str, str]:
    """``A/stem`` -> place in the dataset (``test/A/stem.jpg``)."""
    return {_named(place): place for place in places}


def _named(place: str) -> str:
    _, domain, *rest = PurePosixPath(place).parts
    return "/".join([domain, *rest[:-1], PurePosixPath(place).stem])


def origin_of(place: str, drives: Mapping[str, str], by_name: Mapping[str, str]) -> str | None:
    """The place of the image a translation was made from.

    An image of that name in another split is the same one: the dataset was prepared anew since, or whoever translated
    it put all splits into one.

    Args:
        place: where the translation says its source is.
    """
    if place in drives:
        return place
    parts = PurePosixPath(place).parts
    if len(parts) < 3 or parts[0] not in SPLITS or parts[1] not in ("A", "B"):
        return None
    return by_name.get(_named(place))
