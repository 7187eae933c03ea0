"""``DayToNight`` in ultralytics' training data: whole frames, before the mosaic. Nothing here imports ultralytics.

A step put into ``dataset.transforms`` comes either before the mosaic, and then sees one tile of four (a mosaic fetches
the others itself), or after it, and then takes four frames and their horizons for one; and closing the mosaic for the
last epochs builds the list anew, without the step. So :meth:`UltralyticsNight.attach` goes where every frame passes as
it is read: tiles of a mosaic become night each by itself, and so do frames without one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightaug import boxes
from nightaug.errors import ConfigError
from nightaug.transforms.core import DayToNight, check_image

Labels = dict[str, Any]

_TO_XYXY: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "xyxy": lambda values: values,
    "xywh": boxes.cxcywh_to_xyxy,  # ultralytics' xywh has the centre
    "ltwh": boxes.xywh_to_xyxy,
}


class UltralyticsNight:
    """A step over ultralytics' labels: ``img`` BGR uint8 (H, W, 3), ``instances``, ``cls``.

    Args:
        night: the transform. Without ``classes`` :meth:`attach` takes the dataset's names.
    """

    def __init__(self, night: DayToNight) -> None:
        self.night = night

    def set_epoch(self, epoch: int) -> None:
        """See :meth:`nightaug.transforms.DayToNight.set_epoch`."""
        self.night.set_epoch(epoch)

    def __call__(self, labels: Labels) -> Labels:
        """The same labels; ``img`` is another array where it became night (the dataset may keep the old one).

        Raises:
            ConfigError: the image is not BGR uint8 of three channels.
        """
        image = labels["img"]
        check_image(image)
        rgb = np.ascontiguousarray(image[..., ::-1])
        drawn = self.night.draw(rgb)
        if drawn.night:
            height, width = rgb.shape[:2]
            instances, classes = labels.get("instances"), labels.get("cls")
            corners = None if instances is None else _corners(instances, width, height)
            night = self.night.apply(rgb, drawn, corners, None if classes is None else np.ravel(classes))
            labels["img"] = np.ascontiguousarray(night[..., ::-1])
        return labels

    def attach(self, dataset: Any) -> Any:
        """Have a dataset of ultralytics turn frames into night as it reads them.

        Once is enough, further calls change nothing. Its workers must not have been started yet: where they have, call
        ``train_loader.reset()`` afterwards.

        Args:
            dataset: a ``YOLODataset``, or a concatenation of such.

        Returns:
            The dataset itself.

        Raises:
            ConfigError: it is none.
        """
        parts = getattr(dataset, "datasets", None)
        if parts is not None:
            for part in parts:
                self.attach(part)
            return dataset
        read = getattr(dataset, "update_labels_info", None)
        if read is None:
            raise ConfigError(f"expected a dataset of ultralytics, got {type(dataset).__name__}")
        if not isinstance(read, _Attached):
            if self.night.classes is None:
                names = getattr(dataset, "data", {}).get("names")
                if names is not None:
                    self.night = self.night.with_classes(names)
            dataset.update_labels_info = _Attached(read, self)
        return dataset


class _Attached:
    """A dataset's last step of reading a frame, and the night after it; can be pickled with the dataset."""

    def __init__(self, read: Callable[[Labels], Labels], night: UltralyticsNight) -> None:
        self.read, self.night = read, night

    def __call__(self, label: Labels) -> Labels:
        return self.night(self.read(label))


def _corners(instances: Any, width: int, height: int) -> NDArray[Any]:
    """Boxes of ``Instances`` as (P, 4) xyxy pixels; the instances are not changed."""
    kind = instances._bboxes.format
    values = np.array(instances.bboxes, np.float64).reshape(-1, 4)
    if instances.normalized:
        values *= [width, height, width, height]
    return np.asarray(_TO_XYXY[kind](values))
