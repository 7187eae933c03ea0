"""What folders of results have in common, whoever writes them: endings, links that lead out, a full disk."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath

from nightaug.errors import NightaugError

#: Raised when relight draws otherwise with the same constants: what one look began is not gone on with in another.
#: It stands here as translated folders keep it, and those who only read them ask for it.
LOOK = 5
#: Endings of the formats that are written.
_WRITTEN = frozenset({".jpg", ".jpeg", ".png", ".webp"})


def result_suffix(source: PurePath) -> str:
    """The ending of the image made from ``source``: its own, or ``.jpg`` where its format is not written."""
    return source.suffix if source.suffix.lower() in _WRITTEN else ".jpg"


def link_out(out: Path, folders: Iterable[str]) -> Path | None:
    """The first folder of ``out``, by name, that is a link or lies below one and so is outside; None: all are inside.

    Args:
        folders: relative to ``out``; they need not be there.
    """
    root = os.path.realpath(out)
    for folder in sorted(set(folders)):
        real = os.path.realpath(out / folder)
        if real != root and not real.startswith(root + os.sep):
            return out / folder
    return None


@contextmanager
def writing(where: str, kept: str) -> Iterator[None]:
    """Turn what the system says where a file cannot be written into one line.

    Args:
        where: the folder, for the message.
        kept: what is kept, and what to do.

    Raises:
        NightaugError: in place of any OSError.
    """
    try:
        yield
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else (error.strerror or str(error))
        raise NightaugError(f"cannot write to {where}: {reason}; {kept}") from error
