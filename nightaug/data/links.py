"""Putting a file at a second place: hard link, else symbolic link, else copy. Every way is atomic."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections import Counter
from pathlib import Path
from typing import Literal

from nightaug.errors import DatasetError

LinkMode = Literal["hard", "symbolic", "copy"]
#: Errors that say "not between these two places", not "not this file".
_NEVER_HERE = frozenset({errno.EXDEV, errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ENOTSUP})
_ORDER: tuple[LinkMode, ...] = ("hard", "symbolic", "copy")


def temporary_stem(name: str) -> str:
    """The beginning of a file name, short enough that more can be put around it (file systems count bytes)."""
    return name.encode("utf-8", "ignore")[:80].decode("utf-8", "ignore")


class Linker:
    """Links files and counts how.

    Args:
        mode: where to begin in the order hard, symbolic, copy; what fails (another disk, no permission, a file
            system without links) falls through to the next, file by file.
    """

    def __init__(self, mode: LinkMode = "hard") -> None:
        self.mode = mode
        self.used: Counter[str] = Counter()
        # Devices hard links have failed from: trying again for each of 70,000 files would only cost time.
        self._apart: set[tuple[int, int]] = set()

    def put(self, source: str | Path, target: str | Path) -> None:
        """Make ``target`` be ``source``; a target that already is costs one look.

        Raises:
            DatasetError: not even copying works (disk full, no permission).
        """
        try:
            real, state = str(source), os.lstat(source)
            if stat.S_ISLNK(state.st_mode):
                # A link to a link would break when the first is moved.
                real = os.path.realpath(source)
                state = os.stat(real)
            if self.mode == "hard" and not self._apart:
                # The usual case of a fresh folder, in one call.
                try:
                    os.link(real, target)
                    self.used["hard"] += 1
                    return
                except OSError:
                    pass
            real, target = os.path.abspath(real), Path(target)
            if self._is_there(real, state, target):
                return
            for mode in _ORDER[_ORDER.index(self.mode) :]:
                if self._try(mode, real, state, target):
                    self.used[mode] += 1
                    return
        except OSError as error:
            raise DatasetError(f"{target}: cannot be made from {source} ({error.strerror})") from error

    def _is_there(self, real: str, state: os.stat_result, target: Path) -> bool:
        try:
            if os.path.islink(target):
                if self.mode == "copy" or os.readlink(target) != real:
                    return False
                # With hard links wanted, a symbolic one is right only if it was the fallback.
                if self.mode == "symbolic" or (state.st_dev, os.stat(target.parent).st_dev) in self._apart:
                    self.used["symbolic"] += 1
                    return True
                return False
            there = os.stat(target)
        except OSError:
            return False
        if (there.st_ino, there.st_dev) == (state.st_ino, state.st_dev):
            self.used["hard"] += self.mode == "hard"
            return self.mode == "hard"
        same = there.st_size == state.st_size and int(there.st_mtime) == int(state.st_mtime)
        self.used["copy"] += same and self.mode == "copy"
        return same and self.mode == "copy"

    def _try(self, mode: LinkMode, real: str, state: os.stat_result, target: Path) -> bool:
        temporary = f"{target.parent}/.{temporary_stem(target.name)}.{os.getpid()}.tmp"
        try:
            if mode == "copy":
                shutil.copyfile(real, temporary)
                os.utime(temporary, ns=(state.st_atime_ns, state.st_mtime_ns))
                os.replace(temporary, target)
                return True
            make = os.link if mode == "hard" else os.symlink
            if mode == "hard":
                devices = (state.st_dev, os.stat(target.parent).st_dev)
                if devices in self._apart:
                    return False
            try:
                make(real, target)
            except FileExistsError:
                # Something else has the name: replace it without a moment in which neither is there.
                make(real, temporary)
                os.replace(temporary, target)
            return True
        except OSError as error:
            if os.path.lexists(temporary):
                os.unlink(temporary)
            if mode == "copy":
                raise
            if mode == "hard" and error.errno in _NEVER_HERE:
                self._apart.add((state.st_dev, os.stat(target.parent).st_dev))
            return False
