"""Unpaired crops of two image folders, a pure function of (seed, index).

Item ``i`` does not depend on what was drawn before, so any number of worker processes, any split over
training processes and a resume in the middle of an epoch all see the same sequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nightaug.cyclegan.label_maps import Window, label_map, some_boxes
from nightaug.cyclegan.settings import CropAugmentation
from nightaug.cyclegan.training_boxes import TrainingBoxes
from nightaug.errors import DatasetError, ImageError
from nightaug.images import ImageArray, list_images, read_image
from nightaug.training import StepSampler


class DomainFolders(NamedTuple):
    """Image files of both domains of one split."""

    a: list[Path]
    b: list[Path]


def find_domains(root: Path, split: str) -> DomainFolders | None:
    """Images of ``ROOT/{split}/{A,B}`` or of the public CycleGAN layout ``ROOT/{split}{A,B}``; None if absent."""
    for a, b in ((root / split / "A", root / split / "B"), (root / f"{split}A", root / f"{split}B")):
        if a.is_dir() and b.is_dir():
            return DomainFolders(list_images(a), list_images(b))
    return None


def training_domains(root: Path) -> DomainFolders:
    """The training images of a prepared dataset.

    Raises:
        DatasetError: the folders are missing or empty.
    """
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder")
    found = find_domains(root, "train")
    if found is None:
        raise DatasetError(f"{root} has no train/A and train/B; make them with: nightaug prepare SOURCE --out {root}")
    for name, files in zip("AB", found, strict=True):
        if not files:
            raise DatasetError(f"{root}: train/{name} holds no images")
    return found


def to_tensor(image: ImageArray) -> Tensor:
    """uint8 (H, W, 3) RGB to float32 (3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float().div_(127.5).sub_(1.0)


def to_image(tensor: Tensor) -> ImageArray:
    """(3, H, W) in [-1, 1] to uint8 (H, W, 3) RGB."""
    scaled = tensor.detach().float().add(1).mul(127.5).round().clamp(0, 255)
    image: ImageArray = scaled.byte().permute(1, 2, 0).cpu().numpy()
    return np.ascontiguousarray(image)


def random_window(
    size: tuple[int, int], crop: int, load_size: int | None, augmentation: CropAugmentation, rng: np.random.Generator
) -> Window:
    """Draw the place of a square crop in an image of ``size`` (height, width) pixels, its aspect ratio kept.

    The window is cut from the source and scaled once (:func:`cut_window`), which equals scaling the whole image to
    ``load_size`` (short side, pixels) times a random zoom and cropping, at a fraction of the work.
    """
    height, width = size
    short = min(height, width)
    # An image smaller than the crop is enlarged to it: a crop never shows padding.
    scale = max((load_size or short) * rng.uniform(1.0, augmentation.zoom), crop) / short
    side = min(crop / scale, short)
    left, top = rng.uniform(0, width - side), rng.uniform(0, height - side)
    x0, y0 = round(left), round(top)
    pixels = max(1, round(side))
    flipped = bool(augmentation.flip and rng.random() < 0.5)
    return Window(x0, y0, min(pixels, width - x0), min(pixels, height - y0), flipped)


def cut_window(image: ImageArray, window: Window, crop: int) -> ImageArray:
    """The window of an image at ``crop`` x ``crop`` pixels, uint8 (crop, crop, 3)."""
    x0, y0, width, height, flipped = window
    part = image[y0 : y0 + height, x0 : x0 + width]
    if part.shape[:2] != (crop, crop):
        interpolation = cv2.INTER_AREA if max(width, height) > crop else cv2.INTER_LINEAR
        part = cv2.resize(part, (crop, crop), interpolation=interpolation)
    return np.ascontiguousarray(part[:, ::-1] if flipped else part)


class UnpairedCrops(Dataset[dict[str, Tensor]]):
    """Item ``i``: one crop of each domain, ``{"a": (3, crop, crop), "b": ...}`` in [-1, 1], and ``unreadable``.

    With ``boxes`` also ``labels_a`` and ``labels_b``, uint8 (crop, crop) label maps, and ``boxes_a``, (M, 4) corners of
    day boxes in pixels of the crop, see :mod:`nightaug.cyclegan.label_maps`; the crops are the same ones.
    Each domain is walked in its own permutation, a new one each epoch. A file that cannot be decoded is
    replaced by the next one of its domain and remembered in ``unreadable``, whose size every item tells.
    ``shown`` names files that are read in place of others, which stay what order and boxes go by. ``domains`` may
    leave one of them out.
    """

    def __init__(
        self,
        files: DomainFolders,
        crop: int,
        load_size: int | None,
        augmentation: CropAugmentation,
        seed: int,
        boxes: TrainingBoxes | None = None,
        shown: Mapping[Path, Path] | None = None,
        domains: str = "ab",
    ) -> None:
        self.boxes, self.shown, self.domains = boxes, shown or {}, domains
        self.files, self.crop, self.load_size = files, crop, load_size
        self.augmentation, self.seed = augmentation, seed
        self.unreadable: set[Path] = set()
        self._orders: dict[int, tuple[int, np.ndarray]] = {}

    def _file(self, domain: int, index: int) -> Path:
        files = self.files[domain]
        epoch, at = divmod(index, len(files))
        held = self._orders.get(domain)
        if held is None or held[0] != epoch:
            held = (epoch, np.random.default_rng([self.seed, domain, epoch]).permutation(len(files)))
            self._orders[domain] = held
        return files[int(held[1][at])]

    def _image(self, domain: int, index: int) -> tuple[Path, ImageArray]:
        files = self.files[domain]
        path = self._file(domain, index)
        start = files.index(path) if path in self.unreadable else None
        if start is None:
            try:
                return path, read_image(self.shown.get(path, path))
            except ImageError:
                self.unreadable.add(path)
                start = files.index(path)
        for step in range(1, len(files)):
            path = files[(start + step) % len(files)]
            if path in self.unreadable:
                continue
            try:
                return path, read_image(self.shown.get(path, path))
            except ImageError:
                self.unreadable.add(path)
        raise DatasetError(f"none of the {len(files)} images of domain {'AB'[domain]} can be decoded")

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        result = {}
        for domain, key in enumerate("ab"):
            if key not in self.domains:
                continue
            rng = np.random.default_rng([self.seed, 2 + domain, index])
            path, image = self._image(domain, index)
            height, width = image.shape[:2]
            window = random_window((height, width), self.crop, self.load_size, self.augmentation, rng)
            result[key] = to_tensor(cut_window(image, window, self.crop))
            if self.boxes is not None:
                shown = self.boxes.shown(domain, path, window, self.crop)
                result[f"labels_{key}"] = label_map(shown, self.crop, self.boxes.masks)
                if domain == 0:
                    chance = np.random.default_rng([self.seed, 4, index])
                    result["boxes_a"] = some_boxes(shown, self.crop, self.boxes.shown_boxes, chance)
        # Counted in the batch because worker processes have copies of this object.
        result["unreadable"] = torch.tensor(float(len(self.unreadable)))
        return result


def make_loader(dataset: UnpairedCrops, sampler: StepSampler, workers: int, pin: bool) -> DataLoader[dict[str, Tensor]]:
    """Batches ``{"a": (N, 3, crop, crop), "b": ...}`` in the sampler's order, label maps with them where there are."""
    return DataLoader(
        dataset,
        batch_size=sampler.batch,
        sampler=sampler,
        num_workers=workers,
        pin_memory=pin,
        drop_last=True,
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
    )


def spread(files: Sequence[Path], count: int) -> list[Path]:
    """``count`` files spread evenly over a sorted list: the same ones each time, from many drives."""
    if len(files) <= count:
        return list(files)
    return [files[int(at)] for at in np.linspace(0, len(files) - 1, count)]
