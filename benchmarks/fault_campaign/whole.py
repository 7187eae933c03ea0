"""What lies in a folder: whether every file is whole, and whether two folders hold the same."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import yaml

from nightaug.errors import NightaugError
from nightaug.images import IMAGE_SUFFIXES, read_image
from nightaug.pickles import load_torch
from nightaug.runs import load_weights

#: Files that say when, and files that are there while somebody works.
_OF_THE_MOMENT = frozenset({"log.txt", ".lock"})
#: Lists that grow by a line at a time: the last line may be cut off, and whoever reads them knows.
_GROWING = frozenset({".jsonl"})


def is_temporary(path: Path) -> bool:
    """Whether a name says: not yet a result."""
    return path.name.endswith(".tmp") or ".tmp-" in path.name or path.name.startswith(".tmp")


def files(folder: Path) -> list[Path]:
    """All files and links below a folder, sorted; nothing is followed."""
    found = []
    for place, _, names in os.walk(folder):
        found += [Path(place, name) for name in names]
    return sorted(found)


def torn(folder: Path) -> list[str]:
    """Every file that has its final name and is not whole, with what is wrong with it."""
    wrong = []
    for path in files(folder):
        if is_temporary(path) or path.name in _OF_THE_MOMENT:
            continue
        try:
            _read(path)
        except (NightaugError, ValueError, OSError, EOFError, yaml.YAMLError) as error:
            wrong.append(f"{path.relative_to(folder)}: {str(error)[:160]}")
    return wrong


def _read(path: Path) -> None:
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        read_image(path)
    elif suffix == ".json":
        json.loads(path.read_bytes())
    elif suffix in _GROWING:
        lines = path.read_bytes().split(b"\n")
        for line in lines[:-1]:
            if line:
                json.loads(line)
    elif suffix in (".yaml", ".yml"):
        yaml.safe_load(path.read_text("utf-8"))
    elif suffix == ".safetensors":
        load_weights(path)
    elif suffix == ".pt":
        load_torch(path)
    elif suffix == ".npy":
        np.load(path, mmap_mode="r")
    elif suffix == ".html" and "</html>" not in path.read_text("utf-8"):
        raise ValueError("the page ends too early")


def contents(folder: Path, ignored: frozenset[str] = frozenset()) -> dict[str, str]:
    """Relative name -> hash of a file's bytes, without what is of the moment.

    Args:
        ignored: names of more files to leave out.
    """
    found = {}
    for path in files(folder):
        if path.name in _OF_THE_MOMENT or path.name in ignored or is_temporary(path):
            continue
        found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def differences(first: dict[str, str], second: dict[str, str]) -> list[str]:
    """Names that only one has, or whose bytes differ."""
    return sorted(name for name in {*first, *second} if first.get(name) != second.get(name))


def litter(folder: Path) -> int:
    """Temporary files that somebody has left."""
    return sum(is_temporary(path) for path in files(folder))
