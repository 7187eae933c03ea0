"""``DayToNight``: image and labels in, the same image by night out (or as it was), boxes untouched."""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nightaug.data.classes import canonical_class
from nightaug.data.frames import Box
from nightaug.errors import CheckpointError, ConfigError
from nightaug.images import ImageArray
from nightaug.transforms.blend import blend
from nightaug.transforms.draws import UNKNOWN, Draw, Key, SharedEpoch, draw, in_loader_worker, key_number, worker_number
from nightaug.translate.translators import RELIGHT, Precision, Translator, read_fitted, relights

if TYPE_CHECKING:
    from nightaug.transforms.albumentations import AlbumentationsNight
    from nightaug.transforms.torchvision import LabelsGetter, TorchvisionNight
    from nightaug.transforms.ultralytics import UltralyticsNight

Strength = float | tuple[float, float]
Classes = Sequence[str] | Mapping[int, str]

#: Strengths drawn where none are given: relight goes from late dusk to full night, a trained translator has one night.
_STRENGTH = {True: (0.6, 1.0), False: (1.0, 1.0)}
#: A cubic resize overshoots by a quarter at most; images that were normalised reach further.
_OVERSHOOT = 0.4


class DayToNight:
    """A step of a training pipeline that turns a share of the day images into night.

    Args:
        translator: ``"relight"``, a file of ``nightaug fit-relight``, a run of ``nightaug train-translator``, its
            weight file, a published generator (``.pth``), or a :class:`~nightaug.translate.translators.Translator`.
        p: chance in [0, 1] that an image becomes night.
        strength: in [0, 1], or (low, high) to draw from: 0 leaves the day, 1 is full night, light falls evenly in
            stops between. None: (0.6, 1.0) for ``relight``, 1 for a trained translator.
        seed: of all draws; see :mod:`nightaug.transforms.draws` for what they depend on.
        device: of a trained translator. None takes a GPU if there is one, but the CPU in workers.
        classes: names of the labels' numbers, a sequence or ``{number: name}``, so that ``relight`` knows where lamps
            belong (any alias: ``person``, ``motor``, ...; unknown names get none). Labels that are names need none.
        precision: of a trained translator: ``auto``, ``bf16`` or ``fp32``.

    Instances can be pickled and copied, called from threads, and used in forked and spawned workers: each process loads
    the translator when it first needs it.

    Raises:
        ConfigError: a value is out of range.
        CheckpointError: there is nothing at the translator's path.
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
    ) -> None:
        if isinstance(translator, Translator):
            if translator.direction != "day2night":
                raise ConfigError("DayToNight needs a translator from day to night, this one goes night2day")
            # relight's own strength is drawn here, for each image.
            self._constants = translator.settings.get("relight") or {}
            plain = translator.name == RELIGHT and not self._constants
            self.translator: str | Translator = RELIGHT if plain else translator
        else:
            self.translator = os.fspath(translator)
            if self.translator != RELIGHT and not Path(self.translator).exists():
                raise CheckpointError(
                    f"{self.translator}: no such run or weight file; give a run of train-translator, or 'relight'"
                )
            self._constants = read_fitted(self.translator)[0] if relights(self.translator) else {}
        if not 0.0 <= p <= 1.0:
            raise ConfigError(f"expected p in [0, 1], got {p}")
        self.p = float(p)
        self.strength = _STRENGTH[self.relights] if strength is None else _range(strength)
        self.seed, self.device, self.precision = int(seed), device, precision
        self.classes = None if classes is None else _names(classes)
        self._epoch = SharedEpoch()
        self._calls = 0
        self._loaded: Translator | None = None
        self._settle()

    # -- use -----------------------------------------------------------------------------------------------------

    def __call__(
        self, image: ImageArray, boxes: ArrayLike | None = None, labels: Any = None, key: Key = None
    ) -> ImageArray:
        """Turn one image into night, or hand it back.

        Args:
            image: uint8 (H, W, 3) RGB; never written to.
            boxes: (P, 4) xyxy pixels of ``image``; only read. ``relight`` lights lamps there; others do not look.
            labels: (P,) class numbers or names.
            key: what names the image for the draws (a path, a number); None takes its content.

        Returns:
            A new array of the same size, or ``image`` itself where it stays day.

        Raises:
            ConfigError: another kind of image; labels that do not fit the boxes, or numbers without ``classes``.
        """
        check_image(image)
        return self.apply(image, self.draw(image, key), boxes, labels)

    def set_epoch(self, epoch: int) -> None:
        """From now on draws are a function of (seed, epoch, image), in any number of workers.

        Call it before each epoch, as a distributed sampler's; workers that are kept alive see it too.

        Raises:
            ConfigError: ``epoch`` is negative.
        """
        if epoch < 0:
            raise ConfigError(f"expected an epoch of 0 or more, got {epoch}")
        self._epoch.set(epoch)

    def draw(
        self, image: NDArray[Any], key: Key = None, p: float | None = None, sequence: tuple[int, ...] | None = None
    ) -> Draw:
        """What chance decides for an image; :meth:`apply` carries it out.

        Args:
            image: any array, for its content; not looked at when ``key`` is given.
            p: instead of the transform's own.
            sequence: instead of worker and number of the call, by whoever has a generator of their own.
        """
        chance = self.p if p is None else p
        if chance <= 0.0:
            return Draw(False, 0.0, 0)
        epoch = self._epoch.get()
        if epoch == UNKNOWN and sequence is None:
            with self._lock():
                sequence, self._calls = (worker_number(), self._calls), self._calls + 1
        return draw(self.seed, epoch, sequence or (), key_number(key, image), chance, self.strength)

    def apply(self, image: ImageArray, drawn: Draw, boxes: ArrayLike | None = None, labels: Any = None) -> ImageArray:
        """Carry out a draw: as :meth:`__call__`, without chance."""
        if not drawn.night:
            return image
        if self.relights:
            night = Translator.load(RELIGHT, strength=drawn.strength, constants=self._constants)
            return night(image, self.named_boxes(boxes, labels), drawn.seed)
        translator = self._translator()
        named = self.named_boxes(boxes, labels) if translator.sees_boxes else None
        if translator.concurrent:
            night_image = translator(image, named, drawn.seed)
        else:
            with self._lock():
                night_image = translator(image, named, drawn.seed)
        return blend(image, night_image, drawn.strength)

    @property
    def relights(self) -> bool:
        """Whether it is ``relight``, which needs boxes and labels to light lamps."""
        if isinstance(self.translator, Translator):
            return self.translator.name == RELIGHT
        return relights(self.translator)

    @property
    def sees_boxes(self) -> bool:
        """Whether boxes and labels say where lamps are lit; a trained translator is loaded to find out."""
        return self.relights or self._translator().sees_boxes

    def named_boxes(self, boxes: ArrayLike | None, labels: Any) -> list[Box]:
        """Boxes (P, 4) xyxy pixels and labels (P,) as :class:`Box`; without labels the category is empty."""
        if boxes is None:
            return []
        corners = np.asarray(boxes, np.float64)
        if corners.size == 0:
            return []
        if corners.ndim != 2 or corners.shape[1] != 4:
            raise ConfigError(f"expected boxes (P, 4) as xyxy pixels, got shape {corners.shape}")
        names = [""] * len(corners) if labels is None else [self._name(label) for label in np.asarray(labels).ravel()]
        if len(names) != len(corners):
            raise ConfigError(f"expected a label for each box, got {len(names)} labels and {len(corners)} boxes")
        return [Box(x1, y1, x2, y2, name) for (x1, y1, x2, y2), name in zip(corners.tolist(), names, strict=True)]

    def _name(self, label: Any) -> str:
        if isinstance(label, (str, bytes)):
            return canonical_class(label.decode("utf-8", "replace") if isinstance(label, bytes) else label)
        if self.classes is None:
            raise ConfigError(
                "labels are numbers: give DayToNight their names, classes=['car', ...], "
                "so that relight knows where lamps belong (classes=[] for none)"
            )
        return self.classes.get(int(label), "")

    def with_classes(self, classes: Classes) -> DayToNight:
        """A copy that knows other class names; its epoch is this one's."""
        other = copy.copy(self)
        other.classes = _names(classes)
        return other

    # -- pipelines -----------------------------------------------------------------------------------------------

    def albumentations(self, label_field: str | None = None) -> AlbumentationsNight:
        """This as a step of ``A.Compose``; see :mod:`nightaug.transforms.albumentations`.

        Args:
            label_field: which of ``bbox_params.label_fields`` holds the classes; None finds it by its name.

        Raises:
            ConfigError: albumentations is not installed.
        """
        from nightaug.transforms.albumentations import AlbumentationsNight

        return AlbumentationsNight(**self.arguments(), label_field=label_field)

    def torchvision(self, labels_getter: LabelsGetter | None = None) -> TorchvisionNight:
        """This as a step of ``v2.Compose``; see :mod:`nightaug.transforms.torchvision`.

        Args:
            labels_getter: takes a sample, gives its labels; None finds them beside the boxes.

        Raises:
            ConfigError: torchvision is not installed.
        """
        from nightaug.transforms.torchvision import TorchvisionNight

        return TorchvisionNight(self, labels_getter)

    def ultralytics(self) -> UltralyticsNight:
        """This as a step of ultralytics' training data; see :mod:`nightaug.transforms.ultralytics`."""
        from nightaug.transforms.ultralytics import UltralyticsNight

        return UltralyticsNight(self)

    def arguments(self) -> dict[str, Any]:
        """What to call the class with for an equal one; plain values, but for a Translator that was given as such."""
        return {
            "translator": self.translator,
            "p": self.p,
            "strength": list(self.strength),
            "seed": self.seed,
            "device": self.device,
            "classes": self.classes,
            "precision": self.precision,
        }

    def __repr__(self) -> str:
        name = self.translator.name if isinstance(self.translator, Translator) else self.translator
        return f"DayToNight({name!r}, p={self.p:g}, strength={self.strength}, seed={self.seed})"

    # -- processes -----------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Belong to this process: where a later one finds another number, it was forked."""
        self._process = self._locked_in = os.getpid()
        self._mutex = threading.RLock()

    def _lock(self) -> threading.RLock:  # type: ignore[valid-type]
        if self._locked_in != os.getpid():  # a lock that another thread held while forking would never open
            self._locked_in, self._mutex = os.getpid(), threading.RLock()
        return self._mutex

    def __getstate__(self) -> dict[str, Any]:
        lost = ("_mutex", "_loaded", "_process", "_locked_in")
        return {name: value for name, value in self.__dict__.items() if name not in lost}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._loaded = None
        self._settle()

    def _translator(self) -> Translator:
        """The translator of this process.

        Raises:
            ConfigError: a GPU was asked for in a forked worker, where CUDA cannot be started.
            CheckpointError: no usable weights.
        """
        forked = os.getpid() != self._process
        if isinstance(self.translator, Translator):
            if forked and _on_gpu(self.translator):
                raise ConfigError(
                    f"the translator {self.translator.name} is on a GPU, which a forked worker cannot use: "
                    "give DayToNight its path and device='cpu', or use num_workers=0"
                )
            return self.translator
        with self._lock():
            if self._loaded is None or (forked and _on_gpu(self._loaded)):
                self._loaded = Translator.load(
                    self.translator, device=_device(self.device, forked), precision=self.precision
                )
            return self._loaded


def check_image(image: Any) -> None:
    """Refuse what is not uint8 (H, W, 3), saying what to change.

    Raises:
        ConfigError: it is not.
    """
    kind = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or 0 in image.shape:
        raise ConfigError(f"DayToNight needs a uint8 RGB image (H, W, 3), got {kind}")
    if image.shape[2] != 3:
        raise ConfigError(f"DayToNight needs a colour image (3 channels, RGB), got {kind}; load it as RGB")


def to_uint8(image: NDArray[Any]) -> ImageArray:
    """A float image in [0, 1] as uint8; a uint8 one itself. What resizing has left a little outside is clipped.

    Raises:
        ConfigError: another type, or values far outside [0, 1].
    """
    if image.dtype == np.uint8:
        return image
    if not np.issubdtype(image.dtype, np.floating):
        raise ConfigError(f"DayToNight needs uint8, or floats in [0, 1], got {image.dtype}")
    low, high = (float(image.min()), float(image.max())) if image.size else (0.0, 0.0)
    if not (low >= -_OVERSHOOT and high <= 1.0 + _OVERSHOOT):
        raise ConfigError(
            f"DayToNight needs floats in [0, 1], got {low:.3g} to {high:.3g}; put it before the step that normalises"
        )
    return np.asarray(np.rint(np.clip(image, 0, 1) * 255), dtype=np.uint8)


def _range(strength: Strength | Sequence[float]) -> tuple[float, float]:
    try:
        ends = [float(v) for v in strength] if isinstance(strength, Sequence) else [float(strength)] * 2
    except (TypeError, ValueError) as error:
        raise ConfigError(f"expected strength as a number or (low, high), got {strength!r}") from error
    if len(ends) != 2 or not 0.0 <= ends[0] <= ends[1] <= 1.0:
        raise ConfigError(f"expected strength in [0, 1], or (low, high) in it, got {strength!r}")
    return ends[0], ends[1]


def _names(classes: Classes) -> dict[int, str]:
    """Class numbers to canonical names; JSON turns numbers that are keys into text, so text is taken."""
    if isinstance(classes, str):
        raise ConfigError(f"expected classes as a list of names or {{number: name}}, got {classes!r}")
    pairs = classes.items() if isinstance(classes, Mapping) else enumerate(classes)
    try:
        return {int(number): canonical_class(name) for number, name in pairs}
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"expected classes as a list of names or {{number: name}}, got {classes!r}") from error


def _on_gpu(translator: Translator) -> bool:
    return str(getattr(translator.function, "device", "cpu")).startswith("cuda")


def _device(asked: str | None, forked: bool) -> str | None:
    """Where a translator may run in this process."""
    if forked and asked is not None and asked.startswith("cuda"):
        raise ConfigError(
            f"DayToNight(device='{asked}') cannot start CUDA in a forked worker: use device='cpu', num_workers=0, "
            "or multiprocessing_context='spawn'"
        )
    return "cpu" if asked is None and (forked or in_loader_worker() is not None) else asked
