"""The embedding store: proposals of many images, each with CLIP's embedding of its crop, on disk and mapped.

A folder: ``store.json`` (what it was made of), the proposals of all images one after another (``boxes.npy``,
``objectness.npy``, and ``offsets.npy`` where each image's begin), ``images.json`` (names relative to the data), and
``regions/``, the cache of embeddings (:class:`~nightaug.clip.region_cache.RegionCache`). Made by
:func:`nightaug.detect.openvocab.embed.run_embed`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from nightaug.clip.region_cache import RegionCache, Regions
from nightaug.data.formats.base import shown
from nightaug.errors import CheckpointError, ConfigError, DatasetError
from nightaug.images import atomic_open, atomic_write_bytes, atomic_write_text

#: What ``store.json`` says the folder is; nothing else is ever gone on with.
KIND = "nightaug region embeddings"
FORMAT = 1
STATE, IMAGES, REGIONS = "store.json", "images.json", "regions"
#: The proposals' arrays; the offsets come last, and say that the others are whole.
BOXES, OBJECTNESS, OFFSETS = "boxes.npy", "objectness.npy", "offsets.npy"
#: Facts that must be equal for a store to be gone on with, and what a difference means.
_COMPARED = {
    "images_sha": "other images (or labels)",
    "proposals_sha": "other proposals",
    "stage": "other proposals",
    "most": "another --most",
    "min_score": "another --min-score",
    "nms": "another --nms",
    "min_side": "another --min-side",
    "clip_sha": "another CLIP",
}


class ProposalStore:
    """A finished store, for reading; loader workers may do it, as it can be pickled and forked.

    Args:
        path: the folder.
        root: where the images' names are relative to, if they have moved since.
        unfinished: take a store that is being made, too: its proposals are there, embeddings as far as they are.

    Attributes:
        facts: what it was made of: ``clip``, ``clip_sha``, ``width``, ``images``, ``boxes``, ``most``, ...
        width: E, of CLIP.
        clip: MODEL:TAG or path of the CLIP.

    Raises:
        CheckpointError: no store, not finished, damaged, or of another version.
    """

    def __init__(
        self, path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None, unfinished: bool = False
    ) -> None:
        self.path = Path(path)
        facts = read_state(self.path)
        if facts is None:
            raise CheckpointError(f"{shown(path)} holds no embeddings; make them with nightaug openvocab embed")
        if facts.get("format") != FORMAT:
            raise CheckpointError(f"{shown(path)} is of another version of nightaug; remove it and embed anew")
        if not (unfinished or facts.get("finished")):
            raise CheckpointError(f"{shown(path)} is not finished; run the same nightaug openvocab embed to go on")
        self.facts: dict[str, Any] = facts
        self._maps: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None
        try:
            self.width, self.clip = int(facts["width"]), str(facts["clip"])
            self.root = Path(os.path.abspath(root if root is not None else facts["root"]))
            self.cache = RegionCache(self.path / REGIONS / facts["cache"])
            names = msgspec.json.decode((self.path / IMAGES).read_bytes(), type=list[str])
            self._offsets: NDArray[np.int64] = np.load(self.path / OFFSETS, allow_pickle=False)
            boxes, scores = self._arrays()
            whole = self._offsets.shape == (len(names) + 1,) and bool((np.diff(self._offsets) >= 0).all())
            if not whole or not int(self._offsets[-1]) == len(boxes) == len(scores) or boxes.shape[1:] != (4,):
                raise ValueError("its arrays do not fit together")
        except (OSError, EOFError, ValueError, KeyError, TypeError, msgspec.DecodeError) as error:
            raise CheckpointError(f"{shown(path)} is damaged ({error}); remove it and embed anew") from error
        self._names = names
        self._numbers = {os.path.normpath(self.root / name): number for number, name in enumerate(names)}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": None}  # pickling a map would copy its file

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, path: str | os.PathLike[str]) -> bool:
        return os.path.abspath(path) in self._numbers

    def _arrays(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        if self._maps is None:
            boxes, scores = (np.load(self.path / name, _mode(self.path / name)) for name in (BOXES, OBJECTNESS))
            self._maps = boxes, scores
        return self._maps

    def proposals(self, path: str | os.PathLike[str]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Every proposal of an image, also those without an embedding.

        Returns:
            float32 (P, 4) xyxy in pixels of the original, upright image, in no order; objectness float32 (P,) in
            [0, 1].

        Raises:
            DatasetError: the image is not in the store.
        """
        number = self._numbers.get(os.path.abspath(path))
        if number is None:
            raise DatasetError(
                f"{shown(path)} is not among the {len(self):,} images of {self.path}; embed the images you train on "
                "(nightaug openvocab embed --data ...)"
            )
        first, last = self._offsets[number : number + 2]
        boxes, scores = self._arrays()
        return np.asarray(boxes[first:last]), np.asarray(scores[first:last])

    def _embedded(
        self, path: str | os.PathLike[str]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float16]]:
        boxes, scores = self.proposals(path)
        rows, there = self.cache.lookup(Regions(Path(path), boxes))
        return boxes[there], scores[there], rows[there]

    def regions(self, path: str | os.PathLike[str]) -> tuple[NDArray[np.float32], NDArray[np.float16]]:
        """The embedded proposals of an image; none where its file has changed since.

        Returns:
            float32 (Q, 4) xyxy in pixels of the original, upright image, in no order; float16 (Q, E) of unit length.

        Raises:
            DatasetError: the image is not in the store.
        """
        boxes, _, rows = self._embedded(path)
        return boxes, rows

    def scores(self, path: str | os.PathLike[str]) -> NDArray[np.float32]:
        """Objectness (Q,) in [0, 1] of :meth:`regions`, in the same order."""
        return self._embedded(path)[1]

    def scan(self) -> Iterator[tuple[Path, NDArray[np.float32], NDArray[np.float32], NDArray[np.float16]]]:
        """Every image, also those without proposals: path, boxes (Q, 4), objectness (Q,), embeddings (Q, E).

        For searches over all regions; nothing but the image at hand is in memory.
        """
        for name in self._names:
            path = self.root / name
            yield path, *self._embedded(path)

    def missing(self, paths: Sequence[str | os.PathLike[str]]) -> list[str]:
        """Those of the images that are not in the store."""
        return [str(path) for path in paths if path not in self]

    def gone(self) -> list[str]:
        """Those of its own images that are no longer where they were: nothing is found of them."""
        return [name for name in self._names if not (self.root / name).exists()]


def _mode(path: Path) -> Any:
    """Mapped, where there is anything: an empty range cannot be."""
    with open(path, "rb") as stream:
        np.lib.format.read_magic(stream)
        shape, _, _ = np.lib.format.read_array_header_1_0(stream)
    return "r" if shape[0] else None


# -- writing ---------------------------------------------------------------------------------------------------------


def read_state(path: Path) -> dict[str, Any] | None:
    """``store.json`` of a folder of embeddings, None for anything else."""
    try:
        state = json.loads((path / STATE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return state if isinstance(state, dict) and state.get("kind") == KIND else None


def write_state(path: Path, facts: Mapping[str, Any], finished: bool) -> None:
    """Write ``store.json``."""
    path.mkdir(parents=True, exist_ok=True)
    state = {"kind": KIND, "format": FORMAT, **facts, "finished": finished}
    atomic_write_text(path / STATE, json.dumps(state, indent=1) + "\n")


def check_folder(path: Path, facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the folder holds already of this very store, None where it is new; nothing is changed.

    Raises:
        ConfigError: it is a file, or holds something else.
    """
    if path.exists() and not path.is_dir():
        raise ConfigError(f"--out {shown(path)} is a file; choose a folder")
    before = read_state(path)
    if before is None:
        if path.is_dir() and any(path.iterdir()):
            raise ConfigError(f"{shown(path)} is not empty and holds no embeddings; choose another --out")
        return None
    for key, what in _COMPARED.items():
        if before.get(key) != facts[key] or before.get("format") != FORMAT:
            raise ConfigError(f"{shown(path)} was made with {what}; choose another --out, or remove it")
    return before


def write_arrays(
    path: Path,
    names: Sequence[str],
    counts: NDArray[np.int64],
    parts: Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]],
) -> None:
    """Write the proposals of all images; the parts hold boxes (P, 4) and objectness (P,), together all of them."""
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
    total = int(offsets[-1])
    with atomic_open(path / BOXES, "wb") as boxes, atomic_open(path / OBJECTNESS, "wb") as scores:
        for stream, shape in ((boxes, (total, 4)), (scores, (total,))):
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(stream, header)
        done = 0
        for box, score in parts:
            boxes.write(np.ascontiguousarray(box, "<f4").tobytes())
            scores.write(np.ascontiguousarray(score, "<f4").tobytes())
            done += len(box)
        assert done == total, f"{total} proposals expected, {done} given"
    atomic_write_bytes(path / IMAGES, msgspec.json.encode(list(names)))
    with atomic_open(path / OFFSETS, "wb") as stream:
        np.save(stream, offsets)
