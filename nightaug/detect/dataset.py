"""Frames to network inputs: decode, letterbox, augment, batch.

Item ``i`` does not depend on what was drawn before (see :mod:`nightaug.detect.sampling`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nightaug.clip.region_cache import RegionCache
from nightaug.data.frames import Frame
from nightaug.data.upright import upright
from nightaug.detect.augment import Augment
from nightaug.detect.detectors.base import EmbeddedRegions, Target
from nightaug.detect.sampling import Mixture
from nightaug.detect.sources import image_weight
from nightaug.errors import DatasetError, ImageError
from nightaug.images import ImageArray, Letterbox, letterbox, read_image

#: A network input narrower than this many pixels a side is no training target.
MIN_SIDE = 1.0


class EmbeddedProposals(Protocol):
    """Precomputed proposals of image files with CLIP's embeddings of their crops."""

    def regions(self, path: str | Path) -> tuple[NDArray[np.float32], NDArray[np.float16]]:
        """Boxes (Q, 4) xyxy in pixels of the upright image, and embeddings (Q, E) of unit length."""
        ...


@dataclass
class Sample:
    """One network input: ``image`` uint8 (3, H, W) and its labels.

    ``unreadable``: files that could not be decoded so far and were replaced by others of their source.
    """

    image: Tensor
    target: Target
    letterbox: Letterbox
    path: str
    unreadable: int = 0


@dataclass
class Batch:
    """Samples side by side; ``images`` is uint8 (N, 3, H, W)."""

    images: Tensor
    targets: list[Target]
    letterboxes: list[Letterbox]
    paths: list[str]
    unreadable: int = 0

    def to(self, device: torch.device | str) -> Batch:
        images = self.images.to(device, non_blocking=True)
        return Batch(images, [t.to(device) for t in self.targets], self.letterboxes, self.paths, self.unreadable)

    def pin_memory(self) -> Batch:
        return Batch(self.images.pin_memory(), self.targets, self.letterboxes, self.paths, self.unreadable)


def collate(samples: Sequence[Sample]) -> Batch:
    """A batch of samples."""
    return Batch(
        torch.stack([sample.image for sample in samples]),
        [sample.target for sample in samples],
        [sample.letterbox for sample in samples],
        [sample.path for sample in samples],
        max(sample.unreadable for sample in samples),
    )


def to_tensor(image: ImageArray) -> Tensor:
    """uint8 (H, W, 3) to uint8 (3, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def frame_arrays(
    frame: Frame, numbers: Mapping[str, int]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float32]]:
    """Boxes (P, 4), class numbers (P,) and weights (P,) of a frame's labels in the wanted classes.

    A crowd has weight 0. Labels of other classes are left out, as if nobody had labelled them.
    """
    wanted = [box for box in frame.boxes if box.category in numbers]
    return (
        np.array([box.xyxy for box in wanted], np.float64).reshape(-1, 4),
        np.array([numbers[box.category] for box in wanted], np.int64),
        np.array([0.0 if box.crowd else box.weight for box in wanted], np.float32),
    )


def bare(frame: Frame) -> Frame:
    """A frame without its labels: what adaptation may see of the target domain."""
    return Frame(frame.name, [], frame.width, frame.height, frame.timeofday, video=frame.video, path=frame.path)


class DetectionSamples(Dataset[Sample]):
    """Training samples drawn from a mixture.

    Args:
        mixture: what is drawn.
        classes: class names in the order of their numbers; labels of others are left out.
        augment: the random changes.
        seed: of the changes.
        regions: CLIP's embeddings of the labelled crops, which then go with the labels.
        proposals: precomputed proposals, which then go with every image.
        most: of them at most, of each image, drawn by chance.
    """

    def __init__(
        self,
        mixture: Mixture,
        classes: Sequence[str],
        augment: Augment,
        seed: int,
        regions: RegionCache | None = None,
        proposals: EmbeddedProposals | None = None,
        most: int = 256,
    ) -> None:
        self.mixture, self.augment, self.seed, self.regions = mixture, augment, seed, regions
        self.proposals, self.most = proposals, most
        self.numbers = {name: number for number, name in enumerate(classes)}
        self.unreadable: set[Path] = set()

    def __len__(self) -> int:
        return len(self.mixture)

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng([self.seed, 13, index])
        frame, image = self._read(index)
        boxes, labels, weights = frame_arrays(frame, self.numbers)
        given = None if self.proposals is None else self.proposals.regions(frame.path or "")
        every = boxes if given is None else np.concatenate([boxes, given[0]])
        fitted, (left, share) = self.augment(image, every, rng)
        moved = fitted.boxes.astype(np.float32)
        sides = fitted.boxes[:, 2:] - fitted.boxes[:, :2]
        # What the cut has left of a box may not show the object any more: neither trained on nor background.
        trusted = (share >= self.augment.settings.min_visible) & (sides.min(axis=1, initial=np.inf) >= MIN_SIDE)
        own = left < len(boxes)
        regions = None
        if given is not None:
            whole = np.flatnonzero(~own & trusted)
            whole = np.sort(rng.permutation(whole)[: self.most])
            embeddings = np.asarray(given[1][left[whole] - len(boxes)])
            regions = EmbeddedRegions(torch.from_numpy(moved[whole]), torch.from_numpy(embeddings))
        left, trusted = left[own], trusted[own]
        target = Target(
            torch.from_numpy(moved[own]),
            torch.from_numpy(labels[left]),
            torch.from_numpy(np.where(trusted, weights[left], 0.0).astype(np.float32)),
            image_weight(frame),
            None if self.regions is None else self._embeddings(frame, left),
            regions,
        )
        return Sample(to_tensor(fitted.image), target, fitted.letterbox, str(frame.path), len(self.unreadable))

    def _embeddings(self, frame: Frame, left: NDArray[np.int64]) -> Tensor:
        """float16 (P, E) of the labels that are left, zero where there is none."""
        assert self.regions is not None
        wanted = [number for number, box in enumerate(frame.boxes) if box.category in self.numbers]
        rows, _ = self.regions.lookup(frame)
        return torch.from_numpy(rows[wanted][left])

    def _read(self, index: int) -> tuple[Frame, ImageArray]:
        """The drawn frame, or where its file cannot be decoded the next good one of its source."""
        number, at = self.mixture.draw(index)
        frames = self.mixture.sources[number].frames
        for step in range(len(frames)):
            frame = frames[(at + step) % len(frames)]
            if frame.path is None or frame.path in self.unreadable:
                continue
            try:
                # Labels drawn on the pixels as stored are turned like the image.
                return upright(frame), read_image(frame.path)
            except ImageError:
                self.unreadable.add(frame.path)
        raise DatasetError(f"none of the {len(frames)} images of '{self.mixture.sources[number].name}' can be decoded")


class StillImages(Dataset[Sample]):
    """Images as they are, letterboxed: for evaluation and prediction. An unreadable one becomes grey."""

    def __init__(self, paths: Sequence[Path], width: int, height: int) -> None:
        self.paths, self.width, self.height = list(paths), width, height

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        unreadable = 0
        try:
            image = read_image(self.paths[index])
        except ImageError:
            image, unreadable = np.full((8, 8, 3), 114, np.uint8), 1
        fitted, box = letterbox(image, self.width, self.height)
        if unreadable:
            box = box._replace(width=0, height=0)  # so that whoever gets the batch knows which one it was
        nothing = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), torch.zeros(0))
        return Sample(to_tensor(fitted), nothing, box, str(self.paths[index]), unreadable)


def _quiet_worker(number: int) -> None:
    import cv2

    cv2.setNumThreads(0)  # several processes with several threads each would fight for the cores
    torch.set_num_threads(1)


def make_loader(
    dataset: Dataset[Sample], sampler: Iterable[int], batch: int, workers: int, pin: bool, drop_last: bool = True
) -> DataLoader[Any]:
    """Batches in the sampler's order."""
    return DataLoader(
        dataset,
        batch_size=batch,
        sampler=sampler,
        num_workers=workers,
        pin_memory=pin,
        drop_last=drop_last,
        collate_fn=collate,
        persistent_workers=False,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_quiet_worker if workers else None,
    )
