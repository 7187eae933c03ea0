"""Words and file names from strangers, made fit for a terminal, a line of a text file and UTF-8; plain tables."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any


def encodable(name: str) -> bool:
    """False for a file name that is not UTF-8: Python holds its bytes as lone surrogates, which no label file takes."""
    if name.isascii():
        return True
    return not any(0xD800 <= ord(c) < 0xE000 for c in name)


def plain(word: str) -> str:
    """The word with control characters and line ends as spaces and lone surrogates as U+FFFD."""
    if word.isprintable():
        return word
    return "".join(_plain_character(c) for c in word)


def _plain_character(character: str) -> str:
    category = unicodedata.category(character)
    if category in ("Cc", "Zl", "Zp"):
        return " "
    return "\ufffd" if category == "Cs" else character


#: Keys of file names (and of COCO's classes): these must be refused, and not become the name of another file.
_NAMES = frozenset({"name", "file_name", "videoName"})


def without_surrogates(value: Any, substitute: str = "\ufffd") -> Any:
    """A plain JSON value without lone surrogates (``"\\ud800"``), in keys and words at any depth.

    They become U+FFFD, in file names the control character SUB, for which ``safe_name`` refuses them.

    Raises:
        RecursionError: nested too deeply.
    """
    if isinstance(value, str):
        return value if encodable(value) else "".join(substitute if 0xD800 <= ord(c) < 0xE000 else c for c in value)
    if isinstance(value, list):
        return [without_surrogates(inner) for inner in value]
    if isinstance(value, dict):
        return {
            without_surrogates(key): without_surrogates(inner, "\x1a" if key in _NAMES else "\ufffd")
            for key, inner in value.items()
        }
    return value


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table; the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = []
    for row in [header, *rows]:
        cells = [
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines
