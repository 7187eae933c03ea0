"""``DayToNight`` as a step of an albumentations pipeline (2.0.8).

It changes the image and nothing else. Chance comes from the pipeline's own generator, as for every other step
(``A.Compose(seed=...)``, ``set_random_seed``), told apart in workers that inherited it; after ``set_epoch`` it is a
function of (seed, epoch, image).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightaug.errors import ConfigError
from nightaug.images import ImageArray
from nightaug.transforms.core import Classes, DayToNight, Strength, check_image, to_uint8
from nightaug.transforms.draws import Draw, worker_number
from nightaug.translate.translators import RELIGHT, Precision, Translator

# It asks the package index for its newest version at import otherwise, and waits where there is no network.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
try:
    from albumentations import ImageOnlyTransform
except ImportError as missing:
    raise ConfigError(
        f"albumentations cannot be imported ({missing}): pip install 'albumentations>=2.0.8,<3'"
    ) from missing

#: What a label field that holds classes has in its name.
_CLASS_WORDS = ("class", "label", "categor")


class AlbumentationsNight(ImageOnlyTransform):  # type: ignore[misc]
    """A step of ``A.Compose``; boxes, masks and keypoints pass through.

    Boxes are read in whatever format ``bbox_params`` names; without ``bbox_params`` there are none, and ``relight``
    lights no lamp. uint8 RGB, or floats in [0, 1], which come back as floats of 256 levels; grey images and normalised
    ones are refused. Serialises (``A.to_dict``, ``A.save``) and replays (``A.ReplayCompose``: same night, same lamps);
    for ``A.from_dict`` and ``A.load`` import this module first.

    Args:
        translator, p, strength, seed, device, classes, precision: of :class:`~nightaug.transforms.DayToNight`.
        label_field: which of ``bbox_params.label_fields`` holds the classes; None takes the one whose name has
            "class", "label" or "categor" in it, or the only one.
    """

    def __init__(
        self,
        translator: str | os.PathLike[str] | Translator = RELIGHT,
        p: float = 0.5,
        strength: Strength | Sequence[float] | None = None,
        seed: int = 0,
        device: str | None = None,
        classes: Classes | None = None,
        precision: Precision = "auto",
        label_field: str | None = None,
    ) -> None:
        self._seeded_in = os.getpid()
        self._forced = False
        super().__init__(p=p)
        self.night = DayToNight(translator, p, strength, seed, device, classes, precision)
        self.label_field = label_field

    def set_epoch(self, epoch: int) -> None:
        """See :meth:`nightaug.transforms.DayToNight.set_epoch`."""
        self.night.set_epoch(epoch)

    # -- albumentations' side ------------------------------------------------------------------------------------

    def set_random_seed(self, seed: int | None) -> None:
        """As every transform's; where it happened tells an inherited generator from one's own."""
        super().set_random_seed(seed)
        self._seeded_in = os.getpid()

    def set_random_state(self, random_generator: Any, py_random: Any) -> None:
        """As every transform's."""
        super().set_random_state(random_generator, py_random)
        self._seeded_in = os.getpid()

    def should_apply(self, force_apply: bool = False) -> bool:
        """Always, unless ``p`` is 0: whether it becomes night is drawn when the image is known."""
        self._forced = force_apply
        return force_apply or self.p > 0.0

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """The draw, and the boxes as shares of the image, so that a replay finds them again."""
        image = to_uint8(np.asarray(data["image"] if "image" in data else data["images"][0]))
        # The generator moves on by the same amount whatever comes of it.
        bits = self.py_random.getrandbits(63)
        own = os.getpid() == self._seeded_in
        drawn = self.night.draw(
            image, p=1.0 if self._forced else self.p, sequence=(bits, 0 if own else worker_number())
        )
        boxes, labels = self._boxes(data) if drawn.night and self.night.sees_boxes else ([], [])
        return {"drawn": tuple(drawn), "boxes": boxes, "labels": labels}

    def apply(self, img: NDArray[Any], **params: Any) -> NDArray[Any]:
        """The image by night, in the type it came in."""
        image = to_uint8(img)
        check_image(image)
        height, width = image.shape[:2]
        corners = np.asarray(params["boxes"], np.float64).reshape(-1, 4) * [width, height, width, height]
        night: ImageArray = self.night.apply(image, Draw(*params["drawn"]), corners, params["labels"])
        if night is image:
            return img
        return night if img.dtype == np.uint8 else night.astype(img.dtype) / img.dtype.type(255)

    def get_transform_init_args(self) -> dict[str, Any]:
        """What makes an equal step.

        Raises:
            ConfigError: the translator was given as an object, which no file can hold.
        """
        arguments = self.night.arguments() | {"label_field": self.label_field}
        if isinstance(arguments["translator"], Translator):
            raise ConfigError("this pipeline cannot be saved: give DayToNight the translator's path, not the object")
        arguments["p"] = self.p
        return arguments

    # -- boxes ---------------------------------------------------------------------------------------------------

    def _boxes(self, data: dict[str, Any]) -> tuple[list[list[float]], list[Any] | None]:
        """Boxes as shares of the image, and their labels (None: they have none)."""
        processor = self.get_processor("bboxes")
        boxes = data.get("bboxes")
        if processor is None or boxes is None or len(boxes) == 0:
            return [], []
        rows = np.asarray(boxes, np.float64)
        fields = list(processor.params.label_fields or ())
        labels: list[Any] | None = None
        if fields:
            name = self._class_field(fields)
            column = rows[:, rows.shape[1] - len(fields) + fields.index(name)]
            labels = list(processor.label_manager.restore_field("bboxes", name, column))
        elif rows.shape[1] > 4:
            labels = rows[:, 4].tolist()
        return rows[:, :4].tolist(), [v.item() if isinstance(v, np.generic) else v for v in labels] if labels else None

    def _class_field(self, fields: list[str]) -> str:
        if self.label_field is not None:
            if self.label_field not in fields:
                raise ConfigError(f"label_field '{self.label_field}' is not among the label_fields {fields}")
            return self.label_field
        likely = [name for name in fields if any(word in name.lower() for word in _CLASS_WORDS)] or fields
        if len(likely) > 1:
            raise ConfigError(f"which of the label_fields {likely} holds the classes? Give DayToNight label_field=")
        return likely[0]
