"""Masks, lane files and the like that lie beside the images: passed along, never read.

A companion of image ``x.jpg`` is

- a file beside it named ``x_WORD.*`` or ``x.WORD.*``, WORD one of ``mask``, ``lane``, ``drivable``, ``depth`` ...
  (``x_mask.png``, ``x.lane.json``); it goes to ``{split}/{domain}_extra/beside/``;
- a file ``x.*`` or ``x_WORD.*`` in a folder of such things anywhere in the dataset
  (``labels/lane/masks/train/x.png``, ``masks/x.png``); it goes to ``{split}/{domain}_extra/lane_masks/``: the
  folder's name from ``lane`` on, without the word of the split.

Names are kept, or follow the image's where that was renamed.
"""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

from nightaug.data.companion_names import FOLDERS, base_stem
from nightaug.data.formats.tree import split_word
from nightaug.data.text import encodable

_LABEL_SUFFIXES = frozenset({".txt", ".xml"})
_MAX_FILES = 2_000_000


class Companions:
    """Finds the companions of frames in datasets that have been added."""

    def __init__(self) -> None:
        self._parallel: dict[str, list[tuple[Path, str]]] = defaultdict(list)
        self._by_part: dict[str, dict[str, list[tuple[Path, str]]]] = {}
        self._beside: dict[str, dict[str, list[str]]] = {}
        self._roots: set[str] = set()

    def add_dataset(self, root: Path) -> None:
        """Note all files in folders of masks and lanes under ``root``; linked folders are not followed."""
        real = os.path.realpath(root)
        if real in self._roots or not os.path.isdir(real):
            return
        self._roots.add(real)
        number = 0
        for folder, folders, files in os.walk(root):
            folders.sort()
            parts = Path(folder).relative_to(root).parts
            inside = next((i for i, part in enumerate(parts) if part in FOLDERS), None)
            if inside is None:
                continue
            kind = "_".join(part for part in parts[inside:] if split_word(part) is None) or parts[inside]
            for file in sorted(files):
                if not encodable(file):
                    continue
                number += 1
                if number > _MAX_FILES:
                    return
                self._parallel[base_stem(os.path.splitext(file)[0])].append((Path(folder, file), kind))

    def of(self, path: str, video: str | None) -> list[tuple[Path, str, str]]:
        """``(file, kind, ending of its name after the image's stem)`` of every companion of an image of a video."""
        folder, name = os.path.split(path)
        stem = os.path.splitext(name)[0]
        found: list[tuple[Path, str, str]] = []
        parallel = self._parallel.get(stem, [])
        if parallel:
            # Stems that repeat in every video (SHIFT) must lie in a folder of the video's name.
            if video is not None:
                parallel = self._in_folders(stem).get(video) or parallel[: len(parallel) == 1]
            found += [(file, kind, file.name[len(stem) :]) for file, kind in parallel if file != Path(path)]
        if folder not in self._beside:
            self._beside[folder] = self._listing(folder or ".")
        for name in self._beside[folder].get(stem, ()):
            found.append((Path(folder, name), "beside", name[len(stem) :]))
        return found

    def _in_folders(self, stem: str) -> dict[str, list[tuple[Path, str]]]:
        """Part of a path -> the files of a stem that have it in theirs."""
        if stem not in self._by_part:
            by_part: dict[str, list[tuple[Path, str]]] = defaultdict(list)
            for found in self._parallel[stem]:
                for part in set(found[0].parts):
                    by_part[part].append(found)
            self._by_part[stem] = dict(by_part)
        return self._by_part[stem]

    @staticmethod
    def _listing(folder: str) -> dict[str, list[str]]:
        """Stem -> files in this folder that are named after it with one of the words."""
        listing: dict[str, list[str]] = defaultdict(list)
        with os.scandir(folder) as entries:
            for entry in entries:
                stem, suffix = os.path.splitext(entry.name)
                base = base_stem(stem)
                if base != stem and encodable(entry.name) and suffix.lower() not in _LABEL_SUFFIXES:
                    listing[base].append(entry.name)
        for names in listing.values():
            names.sort()
        return listing
