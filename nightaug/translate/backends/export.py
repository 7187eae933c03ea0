"""``nightaug export`` as one function: a trained translator for ONNX Runtime or OpenVINO, held against torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from nightaug import __version__
from nightaug.cyclegan.checkpoint import find_weights, read_generator, read_night_boxes, read_relit_strength
from nightaug.cyclegan.dataset import spread
from nightaug.cyclegan.samples import scaled
from nightaug.cyclegan.student import Generator
from nightaug.cyclegan.translator import check_direction, network_input
from nightaug.data.classes import SOURCE_TIME, Direction
from nightaug.data.scenes import render
from nightaug.errors import ConfigError, DatasetError, ImageError, NightaugError
from nightaug.images import ImageArray, list_images, read_image
from nightaug.runs import file_sha256
from nightaug.translate.backends.files import (
    ExportFacts,
    ExportFormat,
    ExportPrecision,
    onnx_package,
    target_file,
    write_onnx,
    write_openvino,
    written_files,
)
from nightaug.translate.backends.runtimes import (
    Compute,
    onnxruntime_runtime,
    openvino_core,
    openvino_runtime,
    read_openvino,
)

#: Largest error of an fp32 file against torch in fp32, in units of [-1, 1].
MAX_ERROR = 1e-3
#: Least PSNR against torch in fp32, dB. An int8 file below its mark shows another picture, not a rounded one.
LEAST_PSNR: dict[ExportPrecision, float] = {"fp32": 60.0, "bf16": 40.0, "int8": 20.0}
#: Images an export is measured on, images int8 is calibrated on, and their height in pixels.
MEASURED, CALIBRATED, HEIGHT = 4, 64, 288
#: Scenes drawn where no images are given: width and height.
_DRAWN = (320, 192)
#: Pixels cut off a measured image, so that its sides are no multiples of anything and padding is measured, too.
_ODD = (3, 5)


def export_translator(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    format: ExportFormat,
    direction: Direction = "day2night",
    precision: ExportPrecision = "fp32",
    calibrate: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> ExportFacts | None:
    """Export a translator; None after a dry run. Arguments as the command's options.

    Raises:
        ConfigError: a combination that makes no sense, or ``out`` is taken.
        CheckpointError: no usable weights.
        DatasetError: no images to calibrate on.
        NightaugError: the file does not do what torch does; none is left.
    """
    source, out = Path(source), Path(out)
    calibrate = None if calibrate is None else Path(calibrate)
    if precision == "bf16" and format == "onnx":
        raise ConfigError("ONNX Runtime has no bf16 on a CPU; use --format openvino, or --precision fp32 or int8")
    if precision == "int8" and calibrate is None:
        raise ConfigError("--precision int8 needs --calibrate FOLDER: images as the translator will be given")
    onnx_package()  # before any work
    target = target_file(out, format)
    files = written_files(target)
    for path in files:
        if path.exists() and not overwrite:
            raise ConfigError(f"{path} exists; choose another --out, or --overwrite")
    weights = find_weights(source)
    if weights.resolve() in [path.resolve() for path in files]:
        raise ConfigError(f"the export would replace {weights}, which it is made of; choose another --out")
    network = read_generator(weights, direction).eval().requires_grad_(False)
    relit = read_relit_strength(weights)
    check_direction(weights, direction, relit)
    pictures = _pictures(calibrate, direction, relit, CALIBRATED if precision == "int8" else MEASURED)
    parameters = sum(value.numel() for value in network.parameters())
    say(
        f"{weights}: {type(network).__name__} of width {network.width} with {network.blocks} blocks, {parameters:,} "
        f"parameters; {direction} to {target} in {precision}, "
        f"measured on {min(len(pictures), MEASURED)} images {'of ' + str(calibrate) if calibrate else '(drawn scenes)'}"
    )
    if dry_run:
        return None
    inputs = _inputs(pictures, network)
    runtime = "torch in bf16" if precision == "bf16" else ""
    facts = ExportFacts(
        version=__version__,
        format=format,
        precision=precision,
        direction=direction,
        source=f"{weights.resolve().parent.name}/{weights.name}",
        sha=file_sha256(weights),
        night_boxes=read_night_boxes(weights),
        relit=relit,
        multiple=network.multiple,
        width=network.width,
    )

    def measured(compute: Compute) -> ExportFacts:
        parity = _parity(network, compute, inputs[:MEASURED])
        if precision == "bf16":  # as machines that have it compute, whatever this one does
            parity["psnr"] = min(parity["psnr"], _parity(network, _in_bf16(network), inputs[:1])["psnr"])
        _check(parity, precision, weights)
        return facts.model_copy(update={"parity": parity})

    from nightaug.translate.backends.graph import onnx_graph

    model = onnx_graph(network)
    if precision == "int8":
        from nightaug.translate.backends.quantize import quantized

        model = quantized(model, inputs)
    if format == "onnx":
        made = write_onnx(target, model, lambda path: measured(onnxruntime_runtime(path).compute))
    else:
        ready = openvino_core().read_model(model.SerializeToString())
        made = write_openvino(
            target,
            ready,
            precision == "bf16",
            lambda path: measured(openvino_runtime(read_openvino(path), precision).compute),
        )
    size = sum(path.stat().st_size for path in files)
    against = f" (the lesser of this machine's and of {runtime})" if runtime else ""
    say(
        f"wrote {target}, {size / 1e6:.1f} MB; against torch in fp32: largest error {made.parity['max_error']:.1e}, "
        f"PSNR {made.parity['psnr']:.1f} dB{against}, images in [-1, 1]"
    )
    return made


def _pictures(folder: Path | None, direction: Direction, relit: float | None, count: int) -> list[ImageArray]:
    """Images as the translator is given them."""
    if folder is None:
        time = SOURCE_TIME[direction]
        images = [render(4 * number, *_DRAWN, time)[0] for number in range(count)]
    else:
        images = []
        for path in spread(list_images(folder) if folder.is_dir() else [], count):
            try:
                images.append(scaled(read_image(path), HEIGHT))
            except ImageError:
                continue
        if not images:
            raise DatasetError(f"--calibrate {folder}: no images there that can be read")
    if relit is not None:
        from nightaug.relight import relight

        images = [relight(image, [], seed=number, strength=relit) for number, image in enumerate(images)]
    return images


def _inputs(pictures: Sequence[ImageArray], network: Generator) -> list[np.ndarray]:
    """Every second image a little smaller: odd sides are measured, too."""
    down, right = _ODD
    shown = [image[: -down * (at % 2) or None, : -right * (at % 2) or None] for at, image in enumerate(pictures)]
    return [network_input(image, network.multiple).numpy() for image in shown]


def _in_bf16(network: Generator) -> Compute:
    rounded = type(network)(*network.shape).eval().requires_grad_(False)
    rounded.load_state_dict(network.state_dict())
    rounded = rounded.to(torch.bfloat16)

    def compute(x: np.ndarray) -> np.ndarray:
        out: np.ndarray = rounded(torch.from_numpy(x).to(torch.bfloat16)).float().numpy()
        return out

    return compute


@torch.inference_mode()
def _parity(network: Generator, compute: Compute, inputs: Sequence[np.ndarray]) -> dict[str, float]:
    """``max_error`` in [0, 2] and ``psnr`` in dB against torch in fp32, of the worst image."""
    errors, squares = [], []
    for x in inputs:
        apart = compute(x).astype(np.float64) - network(torch.from_numpy(x)).numpy()
        errors.append(np.abs(apart).max())
        squares.append(np.square(apart).mean())
    worst = float(np.max(squares))  # unlike max(), this keeps a NaN
    # Values span 2; an exact copy is given the PSNR of one float's last digit.
    psnr = 10 * float(np.log10(4 / max(worst, 1e-16))) if np.isfinite(worst) else 0.0
    largest = float(np.max(errors))
    return {"max_error": largest if np.isfinite(largest) else 2.0, "psnr": psnr, "images": float(len(inputs))}


def _check(parity: dict[str, float], precision: ExportPrecision, weights: Path) -> None:
    least = LEAST_PSNR[precision]
    if parity["psnr"] >= least and (precision != "fp32" or parity["max_error"] <= MAX_ERROR):
        return
    mark = f"at most {MAX_ERROR:g} is allowed" if precision == "fp32" else f"at least {least:g} dB is asked for"
    raise NightaugError(
        f"{weights} in {precision} is too far from torch in fp32: largest error {parity['max_error']:.1e}, PSNR "
        f"{parity['psnr']:.1f} dB, and {mark}; nothing was written, use another --precision"
    )
