"""A frozen detector's region features of many images, on disk: written as images are looked at, mapped afterwards.

One process writes. Killed between any two bytes it goes on where it was: rows count only once ``features.json`` says
so, and what was written after that is cut off.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from nightaug.detect.dataset import StillImages, make_loader
from nightaug.detect.detectors.rcnn import RCNNDetector
from nightaug.detect.inference import look
from nightaug.errors import CheckpointError
from nightaug.images import Letterbox, atomic_write_text
from nightaug.runs import StopRequest, progress_bar, resolve_precision

_INDEX = "features.json"


class GrowingArrays:
    """Arrays in a folder that grow together, row by row.

    Args:
        folder: made if it is missing.
        columns: name -> (dtype, shape of a row).
        identity: what the rows are of; rows of something else that are there already are thrown away.

    Attributes:
        items: how many inputs (images) the rows are of.
        rows: how many there are.
    """

    def __init__(
        self, folder: Path, columns: Mapping[str, tuple[DTypeLike, tuple[int, ...]]], identity: Mapping[str, Any]
    ) -> None:
        self.folder = folder
        self.columns = {name: (np.dtype(kind), tuple(shape)) for name, (kind, shape) in columns.items()}
        shapes = {name: [kind.str, list(shape)] for name, (kind, shape) in self.columns.items()}
        self.identity: dict[str, Any] = json.loads(json.dumps({**identity, "columns": shapes}))
        self.items = self.rows = 0
        folder.mkdir(parents=True, exist_ok=True)
        try:
            index = json.loads((folder / _INDEX).read_text("utf-8"))
            if index["identity"] == self.identity:
                self.items, self.rows = int(index["items"]), int(index["rows"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # nothing there yet, or nothing that could be gone on with
        for name in self.columns:
            file = self._file(name)
            file.touch()
            if file.stat().st_size < self.rows * self._bytes(name):
                raise CheckpointError(f"{file} is shorter than it was: remove {folder} to take the features anew")
            os.truncate(file, self.rows * self._bytes(name))

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.bin"

    def _bytes(self, name: str) -> int:
        kind, shape = self.columns[name]
        return kind.itemsize * int(np.prod(shape, dtype=np.int64))

    def append(self, items: int, **columns: NDArray[Any]) -> None:
        """Add the rows of the next ``items`` inputs; there may be none."""
        assert set(columns) == set(self.columns), f"expected {sorted(self.columns)}, got {sorted(columns)}"
        counts = {len(rows) for rows in columns.values()}
        assert len(counts) == 1, f"expected columns of one length, got {counts}"
        for name, rows in columns.items():
            kind, shape = self.columns[name]
            assert rows.shape[1:] == shape, f"expected {name} of shape (P, {shape}), got {rows.shape}"
            with open(self._file(name), "ab") as stream:
                stream.write(np.ascontiguousarray(rows, kind).tobytes())
                stream.flush()
                os.fsync(stream.fileno())
        self.items, self.rows = self.items + items, self.rows + counts.pop()
        index = {"items": self.items, "rows": self.rows, "identity": self.identity}
        atomic_write_text(self.folder / _INDEX, json.dumps(index) + "\n")

    def read(self, name: str) -> NDArray[Any]:
        """All rows of a column, mapped, read only."""
        kind, shape = self.columns[name]
        if not self.rows:
            return np.zeros((0, *shape), kind)
        return np.memmap(self._file(name), kind, "r", shape=(self.rows, *shape))


class Chosen(NamedTuple):
    """Regions of an image whose features are wanted.

    ``boxes`` (P, 4) xyxy in pixels of the original; ``labels`` (P,) class numbers, -1 for background; ``clip`` (P, E)
    CLIP's embeddings of their crops, None where nobody asked for them; ``domain`` 0 day, 1 night, -1 unknown.
    """

    boxes: NDArray[np.floating[Any]]
    labels: NDArray[np.integer[Any]]
    clip: NDArray[np.floating[Any]] | None = None
    domain: int = -1


#: From an image's number, and the detector's own proposals (Q, 4) in pixels of the original, to the wanted regions.
Choose = Callable[[int, NDArray[np.float64]], Chosen]


#: Name -> dtype and shape of a row.
Columns = dict[str, tuple[DTypeLike, tuple[int, ...]]]


def row_bytes(kept: Columns) -> int:
    """What a region takes on disk."""
    return sum(np.dtype(kind).itemsize * int(np.prod(shape, dtype=np.int64)) for kind, shape in kept.values())


def columns(features: int, clip: int | None, precision: str = "fp16") -> Columns:
    """What is kept of a region: ``features`` (F,), ``label``, ``domain``, ``image`` number, ``clip`` (E,) if asked."""
    kept: Columns = {
        "features": ("<f2" if precision == "fp16" else "<f4", (features,)),
        "label": ("<i4", ()),
        "domain": ("<i1", ()),
        "image": ("<i4", ()),
    }
    return kept if clip is None else {**kept, "clip": ("<f2", (clip,))}


@torch.inference_mode()
def take_features(
    detector: RCNNDetector,
    paths: Sequence[Path],
    choose: Choose,
    arrays: GrowingArrays,
    *,
    propose: bool,
    batch: int = 8,
    workers: int = 0,
    stop: StopRequest | None = None,
    title: str = "region features",
) -> int | None:
    """Fill the arrays with the features of chosen regions, from the first image that is not in them on.

    Args:
        detector: on its device.
        paths: image files; one that cannot be read has no regions.
        arrays: with :func:`columns`.
        propose: ask the detector for its own proposals; ``choose`` gets none otherwise.
        batch, workers: images a forward pass, and processes that decode them.
        stop: asked after every forward pass.

    Returns:
        How many of the images looked at now could not be read; None where it was stopped before the last one.
    """
    device = next(detector.parameters()).device
    precision = resolve_precision("auto", device.type == "cpu")
    detector.eval()
    images = StillImages(paths, detector.width, detector.height)
    unreadable, left = 0, range(arrays.items, len(paths))
    with progress_bar(title, len(paths), arrays.items) as show:
        for group in make_loader(images, left, batch, workers, device.type == "cuda", drop_last=False):
            forward = look(detector, group.images, device, precision)
            own: Sequence[tuple[Tensor, Tensor] | None] = [None] * len(group.images)
            if propose:
                own = detector.proposals(forward)
            wanted = []
            for at, (found, box) in enumerate(zip(own, group.letterboxes, strict=True)):
                unreadable += box.width == 0
                wanted.append(_chosen(choose, arrays.items + at, found, box))
            boxes = [
                torch.from_numpy(box.to_network(each.boxes)).float().to(device)
                if box.width
                else torch.zeros(0, 4, device=device)
                for each, box in zip(wanted, group.letterboxes, strict=True)
            ]
            features = detector.region_features(forward, boxes).float().cpu().numpy()
            arrays.append(len(wanted), **_rows(features, wanted, arrays))
            show(arrays.items, f"{arrays.rows:,} regions")
            if stop is not None and stop.requested and arrays.items < len(paths):
                return None
    return unreadable


def _chosen(choose: Choose, number: int, found: tuple[Tensor, Tensor] | None, box: Letterbox) -> Chosen:
    if box.width == 0:
        return Chosen(np.zeros((0, 4)), np.zeros(0, np.int64))
    own = np.zeros((0, 4)) if found is None else box.to_original(found[0].double().cpu().numpy())
    # What lies in the padding has no area in the image: it shows nothing.
    return choose(number, own[((own[:, 2:] - own[:, :2]) > 0).all(axis=1)])


def _rows(features: NDArray[Any], wanted: Sequence[Chosen], arrays: GrowingArrays) -> dict[str, NDArray[Any]]:
    counts = [len(each.boxes) for each in wanted]
    images = np.arange(arrays.items, arrays.items + len(wanted))
    rows: dict[str, NDArray[Any]] = {
        # What is too large for fp16 is as good as infinite already, but must not become so.
        "features": np.clip(features, -6e4, 6e4),
        "label": np.concatenate([np.asarray(each.labels, np.int32) for each in wanted]),
        "domain": np.repeat([each.domain for each in wanted], counts),
        "image": np.repeat(images, counts),
    }
    if "clip" in arrays.columns:
        _, shape = arrays.columns["clip"]
        rows["clip"] = np.concatenate(
            [np.zeros((0, *shape)) if each.clip is None else each.clip.reshape(-1, *shape) for each in wanted]
        )
    return rows
