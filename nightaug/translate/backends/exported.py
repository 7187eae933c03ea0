"""An exported translator as a function from image to image, and runs that are exported where nobody looks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from nightaug import __version__
from nightaug.cyclegan.checkpoint import find_weights
from nightaug.cyclegan.dataset import to_image
from nightaug.cyclegan.translator import memory_free, memory_needed, network_input
from nightaug.data.classes import Direction
from nightaug.data.frames import Box
from nightaug.devices import check_device
from nightaug.errors import ConfigError, ImageError, NightaugError
from nightaug.images import ImageArray, check_rgb
from nightaug.runs import file_sha256, resolve_precision, user_cache
from nightaug.translate.backends.export import export_translator
from nightaug.translate.backends.files import (
    SUFFIXES,
    ExportFacts,
    ExportFormat,
    ExportPrecision,
    exported_file,
    read_onnx_facts,
    read_openvino_facts,
)
from nightaug.translate.backends.runtimes import (
    Backend,
    Runtime,
    onnxruntime_runtime,
    openvino_runtime,
    read_openvino,
)

#: Raised where exports of the same weights come out otherwise, so that those in the cache are made anew.
CACHE_VERSION = 1
#: Which file a backend is given where it is made on the fly.
_FORMAT: dict[Backend, ExportFormat] = {"onnxruntime": "onnx", "openvino": "openvino"}


class ExportedTranslator:
    """Translates images with an exported generator, as :class:`nightaug.cyclegan.translator.CycleGANTranslator` does.

    It has no tiles: memory must hold the whole image.

    Attributes:
        facts: what the file says of itself.
        arithmetic: ``fp32`` or ``bf16``, see :class:`~nightaug.translate.backends.runtimes.Runtime`.

    One instance may be called from several threads, one call at a time.
    """

    def __init__(self, facts: ExportFacts, runtime: Runtime) -> None:
        self.facts, self.arithmetic = facts, runtime.arithmetic
        self._compute = runtime.compute

    def __call__(self, image: ImageArray, boxes: Sequence[Box] | None = None, seed: int = 0) -> ImageArray:
        """uint8 (H, W, 3) RGB to the same; ``boxes`` and ``seed`` are taken for the common interface, unused.

        Raises:
            ImageError: memory is too short for an image of this size.
        """
        check_rgb(image)
        height, width = image.shape[:2]
        x = network_input(image, self.facts.multiple)
        need = memory_needed(x.shape[2], x.shape[3], self.facts.width, 4)
        if need > 0.9 * memory_free(torch.device("cpu")):
            raise ImageError(
                f"{width}x{height} pixels take about {need / 1e9:.1f} GB in one piece, more than is free; "
                "--backend torch works in tiles"
            )
        return to_image(torch.from_numpy(self._compute(x.numpy()))[0, :, :height, :width])


def open_exported(path: Path, backend: Backend | None = None) -> tuple[ExportFacts, Runtime, Backend]:
    """Get an exported file ready to run.

    Args:
        path: ``.onnx`` or ``.xml``.
        backend: None: the file's own. OpenVINO takes both.

    Raises:
        CheckpointError: missing, damaged, or not made by ``nightaug export``.
        ConfigError: a backend that cannot read such a file, or is not installed.
    """
    if path.suffix.lower() == SUFFIXES["onnx"]:
        facts = read_onnx_facts(path)
        if backend == "openvino":
            return facts, openvino_runtime(read_openvino(path), facts.precision), "openvino"
        return facts, onnxruntime_runtime(path), "onnxruntime"
    if backend == "onnxruntime":
        raise ConfigError(f"{path}: onnxruntime reads .onnx files; make one with nightaug export --format onnx")
    model = read_openvino(path)
    facts = read_openvino_facts(path, model)
    return facts, openvino_runtime(model, facts.precision), "openvino"


def load_exported(
    source: Path,
    direction: Direction,
    backend: Backend | None,
    precision: Literal["auto", "bf16", "fp32"],
    device: str | None,
    tile: int | None,
) -> tuple[ExportedTranslator, Backend, str | None]:
    """The translator of an exported file, or of a run, which is exported into the user's cache first.

    Returns:
        The translator, what runs it, and the file's SHA-256 where the user gave it.

    Raises:
        ConfigError: options that an exported translator cannot follow.
        CheckpointError: no usable translator there.
    """
    if tile:
        raise ConfigError("--tile needs --backend torch: an exported translator takes whole images")
    if device is not None:
        check_device(device)
        if torch.device(device).type != "cpu":
            raise ConfigError(f"--device {device} needs --backend torch: exported translators run on the CPU")
    given = exported_file(source)
    if given is not None:
        facts, runtime, used = open_exported(given, backend)
        if facts.direction != direction:
            raise ConfigError(f"{given} was exported for {facts.direction}, not for {direction}")
        if precision not in ("auto", facts.precision):
            raise ConfigError(f"{given} was exported in {facts.precision}; export it with --precision {precision}")
        return ExportedTranslator(facts, runtime), used, file_sha256(given)
    assert backend is not None
    path = cached_export(source, direction, backend, precision)
    facts, runtime, used = open_exported(path, backend)
    return ExportedTranslator(facts, runtime), used, None


def cached_export(
    source: Path, direction: Direction, backend: Backend, precision: Literal["auto", "bf16", "fp32"]
) -> Path:
    """A run exported into the user's cache folder, unless it is there already and whole.

    Raises:
        ConfigError: a precision the backend does not have.
        CheckpointError: no usable weights.
        NightaugError: the export is not close enough to the run.
    """
    fast = resolve_precision("auto", cpu=True) == "bf16" and backend == "openvino"
    asked: ExportPrecision = ("bf16" if fast else "fp32") if precision == "auto" else precision
    format = _FORMAT[backend]
    sha = file_sha256(find_weights(source))
    name = f"{sha[:32]}-{direction}-{asked}-{__version__}-{CACHE_VERSION}{SUFFIXES[format]}"
    path = user_cache("exports") / name
    if path.exists():
        try:
            open_exported(path)
            return path
        except NightaugError:  # cut off, or another's: made anew
            pass
    export_translator(source, path, format, direction, asked, overwrite=True)
    return path
