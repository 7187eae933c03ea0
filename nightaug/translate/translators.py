"""One interface for everything that turns day into night: ``Translator.load(path_or_"relight")(image)``."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from nightaug.data.classes import Direction
from nightaug.data.frames import Box
from nightaug.errors import ConfigError
from nightaug.images import ImageArray

Precision = Literal["auto", "bf16", "fp32"]

#: The name that stands for the training-free renderer wherever a run or weight file is expected.
RELIGHT = "relight"


@dataclass(frozen=True)
class Translator:
    """A function from image to image that keeps size and geometry, so that every box still holds.

    Attributes:
        name: ``relight``, or the run or file the weights came from.
        direction: ``day2night`` or ``night2day``.
        sha: SHA-256 of the weight file, None for ``relight``.
        concurrent: may be called from several threads at once, and gains from it.
        settings: whatever else its results depend on; a folder is only gone on with under equal ones.
        sees_boxes: lights lamps where the boxes say they are; without boxes there are fewer.
    """

    name: str
    direction: Direction
    sha: str | None
    concurrent: bool
    function: Callable[[ImageArray, Sequence[Box] | None, int], ImageArray]
    settings: Mapping[str, Any] = field(default_factory=dict)
    sees_boxes: bool = False

    def __call__(self, image: ImageArray, boxes: Sequence[Box] | None = None, seed: int = 0) -> ImageArray:
        """Translate one image.

        Args:
            image: uint8 (H, W, 3) RGB.
            boxes: the image's labels, pixels of this image; ``relight`` lights lamps and signals there,
                a CycleGAN does not look at them, unless it was trained to refine what relight makes.
            seed: same image, boxes and seed give the same bytes; a CycleGAN has no chance in it.

        Returns:
            uint8 (H, W, 3) RGB of the same size.

        Raises:
            ValueError: ``image`` is not such an array.
        """
        return self.function(image, boxes, seed)

    @staticmethod
    def load(
        source: str | os.PathLike[str] = RELIGHT,
        direction: Direction = "day2night",
        device: str | None = None,
        precision: Precision = "auto",
        tile: int | None = None,
        strength: float = 1.0,
    ) -> Translator:
        """Get a translator ready.

        Args:
            source: ``"relight"``, a run folder of ``nightaug train-translator``, its weight file, or a
                published CycleGAN generator (``.pth``).
            device: ``cpu``, ``cuda``, ...; None takes a GPU if there is one.
            precision: ``bf16`` is about twice as fast as ``fp32``; ``auto`` takes it where it is fast.
            tile: side in pixels of tiles for large images; 0 never tiles, None only when memory is short.
            strength: ``relight`` only, 0 (nearly the day) to 1 (full night).

        Raises:
            ConfigError: ``relight`` asked for day, or a wrong direction.
            CheckpointError: no usable weights there.
        """
        if direction not in ("day2night", "night2day"):
            raise ConfigError(f"expected direction day2night or night2day, got '{direction}'")
        if str(source) == RELIGHT:
            return _relight(direction, strength)
        import torch

        from nightaug.cyclegan.translator import CycleGANTranslator

        gan = CycleGANTranslator.load(source, direction, device, precision, tile)
        settings: dict[str, Any] = {"precision": "bf16" if gan.dtype == torch.bfloat16 else "fp32", "tile": tile}
        if gan.night_boxes != "none":
            # Comparisons name an arm by this: True is the labels of night images, "pseudo" a detector's guesses.
            settings["night_boxes"] = gan.night_boxes == "real" or gan.night_boxes
        if gan.relit is None:
            return Translator(gan.name, direction, gan.sha, False, gan, settings)
        first = _relight(direction, gan.relit).function

        def run(image: ImageArray, boxes: Sequence[Box] | None, seed: int) -> ImageArray:
            return gan(first(image, boxes, seed))

        return Translator(gan.name, direction, gan.sha, False, run, settings | {"relit": gan.relit}, True)


def _relight(direction: Direction, strength: float) -> Translator:
    if direction == "night2day":
        raise ConfigError("relight only goes from day to night; for night2day give --translator a trained run")
    from nightaug.relight import relight

    def run(image: ImageArray, boxes: Sequence[Box] | None, seed: int) -> ImageArray:
        return relight(image, boxes, seed=seed, strength=strength)

    return Translator(RELIGHT, direction, None, True, run, {"strength": strength}, True)
