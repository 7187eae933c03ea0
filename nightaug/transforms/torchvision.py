"""``DayToNight`` as a step of a torchvision v2 pipeline: an ``nn.Module`` over whole samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils import _pytree as tree  # what torchvision's own transforms walk samples with

from nightaug.errors import ConfigError
from nightaug.images import ImageArray
from nightaug.transforms.core import DayToNight, check_image, to_uint8
from nightaug.transforms.draws import Draw

try:
    import PIL.Image
    from torchvision import tv_tensors
    from torchvision.transforms.v2 import functional
except ImportError as missing:
    raise ConfigError(f"torchvision cannot be imported ({missing}): pip install 'torchvision>=0.26'") from missing

LabelsGetter = Callable[[Any], Any]
#: Boxes (P, 4) xyxy pixels and labels (P,), or None where there are none.
Target = tuple[NDArray[np.float64], Any]

_LABEL_WORDS = ("label", "class", "categor")


class TorchvisionNight(nn.Module):
    """A step of ``v2.Compose``; everything but images passes through as it is.

    A sample is anything v2 takes: an image, ``(image, target)``, a dict, any nesting. Images are PIL (RGB),
    ``tv_tensors.Image``, or, where there is neither, the first plain tensor of three dimensions; uint8 or floats in
    [0, 1], (3, H, W), on any device. Boxes are ``tv_tensors.BoundingBoxes`` of any format, labels the entry beside them
    whose name has "label", "class" or "categor" in it. Several images of one sample get the same draw, as in v2; their
    boxes are paired with them in order. Batches (N, C, H, W) and videos are refused: draws are for single images.

    Args:
        night: the transform.
        labels_getter: takes a sample, gives the labels of its only set of boxes.
    """

    def __init__(self, night: DayToNight, labels_getter: LabelsGetter | None = None) -> None:
        super().__init__()
        self.night, self.labels_getter = night, labels_getter

    def set_epoch(self, epoch: int) -> None:
        """See :meth:`nightaug.transforms.DayToNight.set_epoch`."""
        self.night.set_epoch(epoch)

    def forward(self, *inputs: Any) -> Any:
        """A sample with its images by night, or as it came.

        Raises:
            ConfigError: no image, a batch, a video, grey or normalised images, or boxes that cannot be told apart.
        """
        sample = inputs if len(inputs) > 1 else inputs[0]
        leaves, spec = tree.tree_flatten(sample)
        places = _images(leaves)
        drawn: Draw | None = None
        targets: list[Target | None] = []
        for number, place in enumerate(places):
            array = _array(leaves[place])
            if drawn is None:
                drawn = self.night.draw(array)
                if not drawn.night:
                    return sample
                targets = self._targets(sample, len(places))
            target = targets[number]
            night = self.night.apply(array, drawn, *(target or ()))
            leaves[place] = _like(night, leaves[place])
        return tree.tree_unflatten(leaves, spec)

    def extra_repr(self) -> str:
        """For print()."""
        return repr(self.night)

    def _targets(self, sample: Any, images: int) -> list[Target | None]:
        """Boxes and labels of each image."""
        if not self.night.sees_boxes:
            return [None] * images
        found = list(_boxes(sample))
        if not found:
            return [None] * images
        if len(found) != images:
            raise ConfigError(
                f"the sample has {images} images and {len(found)} sets of boxes: DayToNight cannot tell whose they are"
            )
        if self.labels_getter is not None:
            if len(found) > 1:
                raise ConfigError("labels_getter works for samples with one set of boxes")
            found = [(found[0][0], self.labels_getter(sample))]
        targets: list[Target | None] = []
        for boxes, labels in found:
            if labels is None and self.night.classes and self.labels_getter is None:
                raise ConfigError("no labels beside the boxes of the sample: give torchvision(labels_getter=...)")
            targets.append((_xyxy(boxes), _plain(labels)))
        return targets


def _images(leaves: list[Any]) -> list[int]:
    """Which leaves of a sample are its images."""
    if any(isinstance(leaf, tv_tensors.Video) for leaf in leaves):
        raise ConfigError("DayToNight does not take videos: apply it to their frames")
    explicit = [i for i, leaf in enumerate(leaves) if isinstance(leaf, (tv_tensors.Image, PIL.Image.Image))]
    if explicit:
        return explicit
    for i, leaf in enumerate(leaves):
        if isinstance(leaf, Tensor) and not isinstance(leaf, tv_tensors.TVTensor) and leaf.ndim >= 3:
            return [i]
    raise ConfigError("DayToNight found no image in the sample: expected a PIL image, tv_tensors.Image or (3, H, W)")


def _array(image: Any) -> ImageArray:
    """An image as uint8 (H, W, 3)."""
    if isinstance(image, PIL.Image.Image):
        if image.mode != "RGB":
            raise ConfigError(f"DayToNight needs RGB images, got PIL mode {image.mode}: convert('RGB') first")
        return np.asarray(image)
    if image.ndim != 3:
        raise ConfigError(
            f"DayToNight needs single images (3, H, W), got {tuple(image.shape)}: put it before batches are made"
        )
    if image.shape[0] != 3:
        raise ConfigError(f"DayToNight needs colour images (3, H, W), got {tuple(image.shape)}")
    values = image.detach().as_subclass(Tensor).cpu()
    values = values.float() if values.is_floating_point() else values
    array = np.ascontiguousarray(to_uint8(values.permute(1, 2, 0).numpy()))
    check_image(array)
    return array


def _like(night: ImageArray, image: Any) -> Any:
    """uint8 (H, W, 3) as what ``image`` is."""
    if isinstance(image, PIL.Image.Image):
        return PIL.Image.fromarray(night)
    values = torch.from_numpy(night).permute(2, 0, 1).contiguous().to(image.device)
    if image.is_floating_point():
        values = (values.float() / 255).to(image.dtype)
    return tv_tensors.wrap(values, like=image) if isinstance(image, tv_tensors.TVTensor) else values


def _boxes(node: Any) -> Iterator[tuple[tv_tensors.BoundingBoxes, Any]]:
    """Every set of boxes in a sample with its labels (None: none beside it), in order."""
    if isinstance(node, tv_tensors.BoundingBoxes):
        yield node, None
    elif isinstance(node, Mapping):
        for value in node.values():
            if isinstance(value, tv_tensors.BoundingBoxes):
                yield value, _named_labels(node, len(value))
            else:
                yield from _boxes(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            if isinstance(value, tv_tensors.BoundingBoxes):
                # (image, boxes, labels): the labels are the flat thing of the same length.
                yield value, next((other for other in node if _is_labels(other, len(value))), None)
            else:
                yield from _boxes(value)


def _named_labels(node: Mapping[Any, Any], count: int) -> Any:
    likely = {str(key).lower(): value for key, value in node.items() if _is_labels(value, count)}
    if "labels" in likely:
        return likely["labels"]
    return next((value for word in _LABEL_WORDS for key, value in likely.items() if word in key), None)


def _is_labels(value: Any, count: int) -> bool:
    if isinstance(value, tv_tensors.TVTensor):
        return False
    if isinstance(value, (Tensor, np.ndarray)):
        return value.ndim == 1 and len(value) == count
    return isinstance(value, (list, tuple)) and len(value) == count and all(isinstance(v, (int, str)) for v in value)


def _plain(labels: Any) -> Any:
    return labels.detach().cpu().numpy() if isinstance(labels, Tensor) else labels


def _xyxy(boxes: tv_tensors.BoundingBoxes) -> NDArray[np.float64]:
    """Boxes of any format as (P, 4) xyxy pixels; turned ones by the upright box around them."""
    formats = tv_tensors.BoundingBoxFormat
    turned = boxes.shape[-1] != 4
    values = functional.convert_bounding_box_format(
        boxes.detach().as_subclass(Tensor).cpu().double(),
        old_format=boxes.format,
        new_format=formats.XYXYXYXY if turned else formats.XYXY,
    ).numpy()
    if not turned:
        return np.asarray(values)
    points = values.reshape(-1, 4, 2)
    return np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1)
