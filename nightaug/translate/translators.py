"""One interface for everything that turns day into night: ``Translator.load(path_or_"relight")(image)``."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nightaug.data.classes import Direction
from nightaug.data.frames import Box
from nightaug.errors import ConfigError
from nightaug.images import ImageArray
from nightaug.pickles import trusted, trusting

if TYPE_CHECKING:
    from nightaug.cyclegan.translator import CycleGANTranslator
    from nightaug.translate.backends.exported import ExportedTranslator

Precision = Literal["auto", "bf16", "fp32"]
#: What computes a trained translator.
BackendName = Literal["torch", "onnxruntime", "openvino"]

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
            boxes: the image's labels as :class:`~nightaug.data.frames.Box`, pixels of this image; ``relight`` lights
                lamps and signals there, a CycleGAN does not look at them, unless it was trained to refine what relight
                makes.
            seed: same image, boxes and seed give the same bytes; a CycleGAN has no chance in it.

        Returns:
            uint8 (H, W, 3) RGB of the same size.

        Raises:
            ValueError: ``image`` is not such an array.
            ConfigError: ``boxes`` are not of that class, and are looked at.
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
        backend: BackendName | None = None,
        trust: bool | None = None,
        constants: Mapping[str, Any] | None = None,
    ) -> Translator:
        """Get a translator ready.

        Args:
            source: ``"relight"``, a file of ``nightaug fit-relight``, a run folder of ``nightaug train-translator``
                or ``distill``, its weight file, a published CycleGAN generator (``.pth``), or a file of
                ``nightaug export``.
            device: ``cpu``, ``cuda``, ...; None takes a GPU if there is one.
            precision: ``bf16`` is about twice as fast as ``fp32``; ``auto`` takes it where it is fast.
            tile: side in pixels of tiles for large images; 0 never tiles, None only when memory is short.
            strength: ``relight`` only, 0 (nearly the day) to 1 (full night).
            backend: what computes it; None: torch, or what an exported file was made for. A run given to another
                backend is exported into the user's cache folder first.
            constants: ``relight`` only: some of :class:`~nightaug.relight.RelightSettings`, by name.
            trust: run code that is in the weight file; None: if the command was given ``--trust``.

        Raises:
            ConfigError: ``relight`` asked for day, a wrong direction, or options the backend cannot follow.
            CheckpointError: no usable weights there.
        """
        if direction not in ("day2night", "night2day"):
            raise ConfigError(f"expected direction day2night or night2day, got '{direction}'")
        if relights(source):
            if backend not in (None, "torch"):
                raise ConfigError(f"--backend {backend} is for trained translators; relight is none")
            fitted, night_boxes = read_fitted(source)
            return _relight(direction, strength, {**fitted, **(constants or {})}, night_boxes)
        if constants:
            raise ConfigError(f"{', '.join(constants)}: --set is for relight, not for a trained translator")
        from nightaug.translate.backends.files import exported_file

        given = exported_file(Path(source))
        if backend == "torch" and given is not None:
            raise ConfigError(f"{given} is an exported file, which --backend torch cannot run; give its run")
        if given is None and backend in (None, "torch"):
            with trusting(trusted() if trust is None else trust):
                return _in_torch(source, direction, device, precision, tile)
        assert backend != "torch"
        from nightaug.translate.backends.exported import load_exported

        with trusting(trusted() if trust is None else trust):
            made, used, sha = load_exported(Path(source), direction, backend, precision, device, tile)
        facts = made.facts
        settings: dict[str, Any] = {"backend": used, "precision": facts.precision, "arithmetic": made.arithmetic}
        if sha is not None:  # two files of one run may differ, in what they were calibrated on
            settings["file_sha"] = sha
        return _trained(made, str(source), direction, facts.sha, settings, facts.night_boxes, facts.relit)


def _in_torch(
    source: str | os.PathLike[str], direction: Direction, device: str | None, precision: Precision, tile: int | None
) -> Translator:
    import torch

    from nightaug.cyclegan.translator import CycleGANTranslator

    gan = CycleGANTranslator.load(source, direction, device, precision, tile)
    settings = {"precision": "bf16" if gan.dtype == torch.bfloat16 else "fp32", "tile": tile}
    return _trained(gan, gan.name, direction, gan.sha, settings, gan.night_boxes, gan.relit)


def _trained(
    gan: CycleGANTranslator | ExportedTranslator,
    name: str,
    direction: Direction,
    sha: str | None,
    settings: dict[str, Any],
    night_boxes: str,
    relit: float | None,
) -> Translator:
    """A trained generator behind the common interface, with the relight that comes before it where there is one."""
    if night_boxes != "none":
        # Comparisons name an arm by this: True is the labels of night images, "pseudo" a detector's guesses.
        settings["night_boxes"] = _said(night_boxes)
    if relit is None:
        return Translator(name, direction, sha, False, gan, settings)
    first = _relight(direction, relit)

    def run(image: ImageArray, boxes: Sequence[Box] | None, seed: int) -> ImageArray:
        return gan(first.function(image, boxes, seed))

    settings |= {"relit": relit, "look": first.settings["look"]}
    return Translator(name, direction, sha, False, run, settings, True)


def _said(night_boxes: str) -> bool | str:
    """How a translation tells what night labels its translator has seen."""
    return night_boxes == "real" or night_boxes


def relights(source: str | os.PathLike[str]) -> bool:
    """Whether a translator is relight, with its own constants or with those of a YAML file."""
    return str(source) == RELIGHT or Path(source).suffix in (".yaml", ".yml")


def read_fitted(source: str | os.PathLike[str]) -> tuple[dict[str, Any], str]:
    """Relight's constants from a file of ``nightaug fit-relight``, and which night boxes they were fitted to.

    ``relight`` itself has none.

    Raises:
        ConfigError: the file is missing or is something else.
    """
    if str(source) == RELIGHT:
        return {}, "none"
    from nightaug.config import load_yaml

    content = load_yaml(Path(source))
    constants, night_boxes = content.get("relight"), content.get("night_boxes", "none")
    if not isinstance(constants, dict) or night_boxes not in ("real", "pseudo", "none"):
        raise ConfigError(
            f"{source}: no constants of relight; expected a file of nightaug fit-relight, 'relight: {{name: value}}'"
        )
    return constants, night_boxes


def _relight(
    direction: Direction, strength: float, constants: Mapping[str, Any] | None = None, night_boxes: str = "none"
) -> Translator:
    if direction == "night2day":
        raise ConfigError("relight only goes from day to night; for night2day give --translator a trained run")
    from nightaug.relight import LOOK, relight, relight_settings

    settings = relight_settings(constants or {})

    def run(image: ImageArray, boxes: Sequence[Box] | None, seed: int) -> ImageArray:
        return relight(image, boxes, seed=seed, strength=strength, settings=settings)

    facts = {"strength": strength, "look": LOOK, **({"relight": dict(constants)} if constants else {})}
    if night_boxes != "none":
        facts["night_boxes"] = _said(night_boxes)
    return Translator(RELIGHT, direction, None, True, run, facts, True)
