"""Sample grids and the validation score of a CycleGAN in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from nightaug.cyclegan.checkpoint import Pair
from nightaug.cyclegan.dataset import DomainFolders, spread, to_image, to_tensor
from nightaug.cyclegan.losses import l1
from nightaug.cyclegan.networks import SIZE_MULTIPLE
from nightaug.cyclegan.settings import TranslatorSettings
from nightaug.cyclegan.translation_metrics import sliced_wasserstein
from nightaug.errors import ImageError
from nightaug.images import ImageArray, read_image, write_image

#: Shortest side of a scored image, pixels: what the distance's coarsest level needs.
MIN_SCORED = 64
#: Rows of a sample grid.
GRID_ROWS = 4
#: Columns of a sample grid, in order.
GRID_COLUMNS = ("real A", "fake B", "rec A", "real B", "fake A", "rec B")


def scaled(image: ImageArray, height: int, multiple: int = SIZE_MULTIPLE) -> ImageArray:
    """The whole image at ``height`` pixels, aspect ratio kept, sides multiples of ``multiple``.

    It is enlarged only where the score's smallest patches would not fit otherwise.
    """
    h, w = image.shape[:2]
    factor = max(min(1.0, height / h), MIN_SCORED / min(h, w))
    sides = [max(2 * multiple, round(side * factor / multiple) * multiple) for side in (w, h)]
    small: ImageArray = cv2.resize(image, (sides[0], sides[1]), interpolation=cv2.INTER_AREA)
    return small


def read_scored(
    files: Sequence[Path],
    count: int,
    height: int,
    multiple: int = SIZE_MULTIPLE,
    shown: Mapping[Path, Path] | None = None,
) -> list[Tensor]:
    """``count`` images spread over the files, :func:`scaled`, each (3, H, W) in [-1, 1]; unreadable ones are left out.

    Args:
        shown: files that are read in place of some of them.
    """
    images = []
    for path in spread(files, count):
        try:
            images.append(to_tensor(scaled(read_image((shown or {}).get(path, path)), height, multiple)))
        except ImageError:
            continue
    return images


class Scorer:
    """Translates a fixed set of validation images, writes the grid, and measures.

    The score is the mean over both directions of the sliced Wasserstein distance between translated and
    real images plus the cycle error, both in units of [-1, 1] intensity; lower is better. It decides which
    weights are ``best``. The distance alone would prefer a smooth dark blur, the cycle error the source.
    Without a way back (objective ``cut``) there is one direction and no cycle error: the distance alone is the score.

    Args:
        files: of validation.
        shown: files that are read in place of some of them.
    """

    def __init__(
        self, files: DomainFolders, settings: TranslatorSettings, shown: Mapping[Path, Path] | None = None
    ) -> None:
        self._images = [
            read_scored(domain, settings.score_images, settings.sample_height, shown=shown) for domain in files
        ]

    @torch.no_grad()
    def __call__(self, pair: Pair, device: torch.device, folder: Path, step: int) -> dict[str, float]:
        """Write ``folder/step-N.jpg`` and return the scores."""
        rows: list[list[ImageArray]] = [[] for _ in range(GRID_ROWS)]
        scores: dict[str, float] = {}
        for name, source, target, there, back in (
            ("day2night", self._images[0], self._images[1], pair.A2B, pair.B2A),
            ("night2day", self._images[1], self._images[0], pair.B2A, pair.A2B),
        ):
            if there is None:
                continue
            fakes, errors = [], []
            for at, image in enumerate(source):
                fake = there(image[None].to(device)).float()
                fakes.append(fake[0].cpu())
                shown = [image, fake[0]]
                if back is not None:
                    shown.append(back(fake)[0])
                    errors.append(float(l1(shown[-1], image.to(device))))
                if at < GRID_ROWS:
                    rows[at] += [to_image(each) for each in shown]
            if fakes and target:
                scores[f"distance_{name}"] = sliced_wasserstein(fakes, target)
                if errors:
                    scores[f"cycle_error_{name}"] = sum(errors) / len(errors)
        if any(rows):
            write_image(folder / f"step-{step:07d}.jpg", grid(rows), quality=90)
        directions = 1 if pair.B2A is None else 2
        # Of all directions: otherwise a domain has no readable image, and nothing is best.
        if len(scores) == (1 if directions == 1 else 4):
            scores["score"] = sum(scores.values()) / directions
        return scores


def grid(rows: list[list[ImageArray]]) -> ImageArray:
    """Images of any sizes in rows, each row as high as its highest image, on black."""
    rows = [row for row in rows if row]
    strips = []
    width = max(sum(image.shape[1] for image in row) for row in rows)
    for row in rows:
        strip = np.zeros((max(image.shape[0] for image in row), width, 3), np.uint8)
        left = 0
        for image in row:
            strip[: image.shape[0], left : left + image.shape[1]] = image
            left += image.shape[1]
        strips.append(strip)
    return np.concatenate(strips)
