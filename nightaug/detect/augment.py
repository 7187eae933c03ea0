"""Random changes of a training image with its boxes: scale and cut while letterboxing, the rest by albumentations."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from nightaug.detect.settings import DetectorAugmentation
from nightaug.errors import ConfigError
from nightaug.images import ImageArray, Letterbox

#: Grey of the padding, as in :func:`nightaug.images.letterbox`.
FILL = 114
#: Pixels of the network's input: a box of which less is left on a side is gone.
_SLIVER = 0.01


class Fitted(NamedTuple):
    """A network input with its boxes (xyxy pixels of it) and how it came from the original."""

    image: ImageArray
    boxes: NDArray[np.float64]
    letterbox: Letterbox


def fit(image: ImageArray, width: int, height: int, zoom: float, x: float, y: float) -> tuple[ImageArray, Letterbox]:
    """Letterbox an image ``zoom`` times as large as fits, the window placed at ``x``, ``y``.

    Args:
        image: uint8 (H, W, 3).
        zoom: 1 fits exactly; more cuts, less leaves a border.
        x, y: in [0, 1], where the window lies in what sticks out (or the image in what is left free).

    Returns:
        uint8 (height, width, 3) and the mapping of boxes. The original is cut before it is scaled.
    """
    h, w = image.shape[:2]
    scale = min(width / w, height / h) * zoom
    # Place of the scaled image's corner in the window: negative where it sticks out.
    left, top = (width - w * scale) * x, (height - h * scale) * y
    out = np.full((height, width, 3), FILL, np.uint8)
    x0, x1, sx0, sx1 = _spans(left, scale, w, width)
    y0, y1, sy0, sy1 = _spans(top, scale, h, height)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    out[y0:y1, x0:x1] = cv2.resize(image[sy0:sy1, sx0:sx1], (x1 - x0, y1 - y0), interpolation=how)
    return out, Letterbox(scale, float(left), float(top), w, h)


def _spans(start: float, scale: float, length: int, window: int) -> tuple[int, int, int, int]:
    """Pixels of the window that an image fills along one side, and the pixels of the original that go there.

    At least one each: a strip of 3,000 x 2 pixels still has a row in the window.
    """
    first = min(max(0, round(start)), window - 1)
    last = min(window, max(first + 1, round(start + length * scale)))
    source = min(max(0, round((first - start) / scale)), length - 1)
    return first, last, source, min(length, max(source + 1, round((last - start) / scale)))


class Augment:
    """Random letterboxing, then an albumentations pipeline; the same result for the same generator.

    Args:
        settings: what to change and how much.
        width, height: of the network's input, pixels.

    Raises:
        ConfigError: the user's pipeline file cannot be read.
    """

    def __init__(self, settings: DetectorAugmentation, width: int, height: int) -> None:
        self.settings, self.width, self.height = settings, width, height
        self._pipeline = _pipeline(settings)

    def __call__(self, image: ImageArray, boxes: NDArray[np.float64], rng: np.random.Generator) -> tuple[Fitted, Any]:
        """Change an image and its boxes (P, 4) xyxy in pixels of the original.

        Returns:
            The network input, and the numbers (Q,) of the boxes that are left with the share (Q,) each has kept.
        """
        s = self.settings
        span = float(np.log1p(s.zoom))
        zoom = float(np.exp(rng.uniform(-span, span))) if span else 1.0
        x, y = rng.uniform(), rng.uniform()
        if not span:
            x = y = 0.5
        shown, letterbox = fit(image, self.width, self.height, zoom, x, y)
        moved = letterbox.to_network(boxes)
        cut = np.clip(moved, 0, [self.width, self.height] * 2)
        area = np.prod(np.maximum(moved[:, 2:] - moved[:, :2], 1e-9), axis=1)
        kept = np.prod(np.maximum(cut[:, 2:] - cut[:, :2], 0), axis=1) / area
        # Albumentations counts in float32 and stops at a sliver whose two sides it cannot tell apart.
        numbers = np.flatnonzero((kept > 0) & (np.min(cut[:, 2:] - cut[:, :2], axis=1) > _SLIVER))
        if self._pipeline is not None:
            self._pipeline.set_random_seed(int(rng.integers(2**31)))
            result = self._pipeline(image=shown, bboxes=cut[numbers], numbers=numbers)
            shown = np.ascontiguousarray(result["image"])
            cut = np.asarray(result["bboxes"], np.float64).reshape(-1, 4)
            numbers = np.asarray(result["numbers"], np.int64).reshape(-1)
        else:
            cut = cut[numbers]
        return Fitted(shown, cut, letterbox), (numbers, kept[numbers])


def _pipeline(s: DetectorAugmentation) -> Any:
    # It asks the package index for its newest version at import otherwise, and waits where there is no network.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations as A

    if s.pipeline is not None:
        steps = _own_pipeline(A, Path(s.pipeline))
    else:
        steps = [A.HorizontalFlip(p=s.flip)] if s.flip else []
        if s.brightness or s.saturation or s.hue:
            steps.append(
                A.ColorJitter(
                    brightness=(1 - s.brightness, 1 + s.brightness),
                    contrast=(1 - s.brightness, 1 + s.brightness),
                    saturation=(1 - s.saturation, 1 + s.saturation),
                    hue=(-s.hue / 360, s.hue / 360),
                    p=0.8,
                )
            )
        if s.blur:
            steps.append(A.GaussianBlur(blur_limit=(3, 5), p=s.blur))
        if s.noise:
            steps.append(A.GaussNoise(std_range=(0.01, 0.05), p=s.noise))
    if not steps:
        return None
    # Only a pipeline of the user's own cuts: what was cut before has its share taken already.
    least = s.min_visible if s.pipeline is not None else 0.0
    boxes = A.BboxParams(format="pascal_voc", label_fields=["numbers"], min_area=0.0, min_visibility=least, clip=True)
    return A.Compose(steps, bbox_params=boxes)


def _own_pipeline(albumentations: Any, path: Path) -> list[Any]:
    try:
        loaded = albumentations.load(str(path), data_format="json" if path.suffix == ".json" else "yaml")
    except Exception as error:
        line = " ".join(str(error).split())
        raise ConfigError(
            f"augmentation.pipeline {path}: cannot be loaded ({line}); save it with albumentations.save"
        ) from error
    return [loaded]
