"""Embeddings of image regions, computed once and kept on disk for every process and every run.

A row belongs to an image's content, a box and a CLIP with its weights: a changed file, box or model is never answered
with an old row. See :mod:`nightaug.clip.segments` for the files.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nightaug.clip.crops import CROP_VERSION
from nightaug.clip.encoder import Clip
from nightaug.clip.segments import Index, Key, content_key, place_key, settled
from nightaug.data.frames import Frame
from nightaug.data.upright import upright
from nightaug.errors import CheckpointError
from nightaug.images import atomic_write_text

if TYPE_CHECKING:
    from nightaug.clip.fill import FillReport

Parts = Literal["sum", "both"]
#: Boxes are told apart to 1/32 pixel, exactly representable: 12.3 read from text and 12.3 computed are one box.
GRAIN = 32
_FORMAT = 1
#: Beyond this a coordinate is no pixel of any image.
_FARTHEST = 1 << 24
#: How far the length of an embedding may be from 1: bf16 rounds by less. Only a damaged file holds others.
_OFF_UNIT = 0.02


class Regions(NamedTuple):
    """Boxes of one image file: xyxy (P, 4) in pixels of the upright image."""

    path: Path
    boxes: NDArray[np.floating[Any]]


def regions_of(frame: Frame | Regions) -> Regions:
    """A frame's boxes as regions, turned upright where its labels were not."""
    if isinstance(frame, Regions):
        return frame
    assert frame.path is not None, f"{frame.name}: the frame has no image file"
    frame = upright(frame)
    assert frame.path is not None
    return Regions(frame.path, np.array([box.xyxy for box in frame.boxes], np.float64).reshape(-1, 4))


def box_keys(boxes: ArrayLike) -> NDArray[np.int32]:
    """Boxes (P, 4) in whole steps of 1/32 pixel; those that are no box (NaN, infinite) become all zero."""
    values = np.asarray(boxes, np.float64).reshape(-1, 4)
    good: NDArray[np.bool_] = np.all(np.isfinite(values) & (np.abs(np.nan_to_num(values)) < _FARTHEST), axis=1)
    keys: NDArray[np.int32] = np.rint(np.where(good[:, None], values, 0) * GRAIN).astype(np.int32)
    return keys


class RegionCache:
    """One CLIP's embeddings under one set of settings.

    Made with :meth:`open`, or by path where it exists already. Reading needs no CLIP and loader workers can do
    it: the object may be pickled and forked, and every process maps the same files.

    Args:
        path: the cache's own folder.

    Attributes:
        facts: ``clip``, ``clip_sha``, ``width``, ``context``, ``parts``, ``min_side``.
        width: E, of CLIP.

    Raises:
        CheckpointError: no cache, or of another format.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self.facts: dict[str, Any] = json.loads((self.path / "cache.json").read_text("utf-8"))
            self.width, self.parts = int(self.facts["width"]), str(self.facts["parts"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{self.path}: no region cache ({error})") from error
        if self.facts.get("format") != _FORMAT or self.facts.get("crops") != CROP_VERSION:
            raise CheckpointError(f"{self.path}: a region cache of another version of nightaug; remove it")
        self.index = Index(self.segments)
        self.refresh()

    @classmethod
    def open(
        cls,
        root: str | os.PathLike[str],
        clip: Clip,
        context: float = 1.5,
        min_side: float = 4.0,
        parts: Parts = "sum",
    ) -> RegionCache:
        """Open, or begin, the cache of a CLIP under ``root``; other CLIPs and settings have folders of their own there.

        Args:
            context: how far the second crop is grown around the box (METHODS 2.3 and 3); 1 takes one crop alone.
            min_side: boxes with a side under this many pixels (of the part inside the image) have no embedding.
            parts: ``sum`` keeps normalise(clip(crop) + clip(grown crop)), ``both`` keeps each, normalised.
        """
        facts = {
            "format": _FORMAT,
            "crops": CROP_VERSION,
            "clip": clip.name,
            "clip_sha": clip.sha,
            "width": clip.width,
            "context": float(context),
            "min_side": float(min_side),
            "parts": parts,
        }
        text = json.dumps(facts, indent=1)
        slug = "".join(c if c.isalnum() else "-" for c in clip.name)[:60].strip("-")
        identity = json.dumps({key: value for key, value in facts.items() if key != "clip"}, sort_keys=True)
        path = Path(root) / f"{slug}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
        (path / "segments").mkdir(parents=True, exist_ok=True)
        if not (path / "cache.json").exists():
            atomic_write_text(path / "cache.json", text + "\n")
        cache = cls(path)
        if any(cache.facts.get(key) != value for key, value in facts.items() if key != "clip"):
            raise CheckpointError(f"{path} holds the embeddings of another CLIP; remove it, or choose another folder")
        return cache

    @property
    def segments(self) -> Path:
        return self.path / "segments"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one box's embedding: (E,) or (2, E) for the crop and the grown one."""
        return (self.width,) if self.parts == "sum" else (2, self.width)

    def __len__(self) -> int:
        return self.index.rows

    def refresh(self) -> None:
        """Take up what other processes have written since."""
        self.index.refresh()

    # -- reading ---------------------------------------------------------------------------------------------

    def image_key(self, path: str | os.PathLike[str]) -> tuple[Key, Key | None]:
        """Key of an image's content, and of its place where that may be remembered and is not yet.

        Raises:
            OSError: no such file, or unreadable.
        """
        status = os.stat(path)
        place = place_key(path, status)
        known = self.index.content_at(place)
        if known is not None:
            return known, None
        return content_key(path), place if settled(status) else None

    def find(self, content: Key, keys: NDArray[np.int32]) -> NDArray[np.int64]:
        """Where the boxes of an image are: (P, 2) of segment and row.

        The segment is -1 for a box nobody has considered yet, the row -1 for one that has no embedding.
        """
        out = np.full((len(keys), 2), -1, np.int64)
        left = len(keys)
        for number, entry in self.index.entries(content):
            if not left:
                break
            first, last = self.index.segments[number].offset[entry : entry + 2]
            maps = self.index.maps(number)
            if last == first:
                continue
            boxes, row = np.asarray(maps.boxes[first:last]), np.asarray(maps.row[first:last])
            if out[0, 0] < 0 and boxes.shape == keys.shape and np.array_equal(boxes, keys):  # the usual case
                out[:, 0], out[:, 1] = number, row
                return out
            known = {box.tobytes(): at for at, box in enumerate(boxes)}
            for i, key in enumerate(keys):
                if out[i, 0] < 0 and (at := known.get(key.tobytes())) is not None:
                    out[i] = number, row[at]
                    left -= 1
        return out

    def lookup(self, frame: Frame | Regions) -> tuple[NDArray[np.float16], NDArray[np.bool_]]:
        """Embeddings of a frame's boxes.

        Returns:
            float16 (P, E), or (P, 2, E) with ``parts="both"``, of unit length, zero where there is none; and True (P,)
            where there is one. A missing or unreadable file has none.

        Raises:
            CheckpointError: what is kept of these boxes is damaged.
        """
        regions = regions_of(frame)
        keys = box_keys(regions.boxes)
        rows = np.zeros((len(keys), *self.shape), np.float16)
        mask = np.zeros(len(keys), bool)
        if not len(keys):
            return rows, mask
        try:
            content, _ = self.image_key(regions.path)
        except OSError:
            return rows, mask
        where = self.find(content, keys)
        mask = where[:, 1] >= 0
        for number in np.unique(where[mask, 0]):
            mine = mask & (where[:, 0] == number)
            rows[mine] = self._rows(int(number), where[mine, 1])
        return rows, mask

    def _rows(self, number: int, at: NDArray[np.int64]) -> NDArray[np.float16]:
        """Embeddings of a segment, by their rows; checked, because only the index has a checksum (they are many GB)."""
        kept = self.index.maps(number).rows
        if int(at.max()) < len(kept):
            found = kept[at].reshape(-1, *self.shape)
            off = np.linalg.norm(found.astype(np.float32), axis=-1) - 1
            if bool((np.abs(off) < _OFF_UNIT).all()):  # false of NaN, too
                return found
        raise CheckpointError(
            f"{self.index.segments[number].path} is damaged; remove it, what it held is embedded anew"
        )

    def scan(self) -> Iterator[tuple[Key, NDArray[np.float32], NDArray[np.float16]]]:
        """Every image with its embedded boxes: content key, boxes (P, 4) in pixels, embeddings (P, ...) mapped.

        For searches over all regions; segments come in the order they were written, and nothing is read ahead.
        """
        for number, segment in enumerate(self.index.segments):
            maps = self.index.maps(number)
            for entry, content in enumerate(segment.content):
                first, last = segment.offset[entry : entry + 2]
                row = np.asarray(maps.row[first:last])
                kept = row[row >= 0]
                if len(kept):  # the rows of one image follow each other
                    boxes = np.asarray(maps.boxes[first:last][row >= 0], np.float32) / np.float32(GRAIN)
                    yield content, boxes, maps.rows[kept[0] : kept[-1] + 1].reshape(-1, *self.shape)

    # -- writing ---------------------------------------------------------------------------------------------

    def fill(self, frames: Sequence[Frame | Regions], clip: Clip, **options: Any) -> FillReport:
        """Embed what is not there yet; options and errors: see :func:`nightaug.clip.fill.fill`."""
        from nightaug.clip.fill import fill

        return fill(self, frames, clip, **options)
