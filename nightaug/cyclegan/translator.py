"""A trained generator as a function from image to image, at the image's own size."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nightaug.cyclegan.blocked import use_blocks
from nightaug.cyclegan.checkpoint import find_weights, read_generator, read_night_boxes, read_relit_strength
from nightaug.cyclegan.dataset import to_image
from nightaug.cyclegan.student import Generator
from nightaug.data.classes import Direction
from nightaug.data.frames import Box
from nightaug.devices import check_device, default_device
from nightaug.errors import ConfigError
from nightaug.images import ImageArray, check_rgb
from nightaug.runs import file_sha256, resolve_precision

#: Bytes taken for free where the system does not say.
NO_LIMIT = 1 << 62
#: Smallest side the generator is given: reflection padding by 3 and two halvings need room.
MIN_SIDE = 16


def memory_needed(height: int, width: int, channels: int, bytes_per_value: int) -> int:
    """Bytes one generator pass holds at its peak: about five full-size maps of ``channels`` channels
    (input, padded copy, output of a conv, its normalised copy, one spare), measured on CPU."""
    return 5 * height * width * channels * bytes_per_value


def memory_free(device: torch.device) -> int:
    """Bytes that can still be taken on the device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        # What programs can get, page cache included; the "free" pages of sysconf leave that out.
        lines = Path("/proc/meminfo").read_text("utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError, IndexError):
        return NO_LIMIT  # not Linux: whole images, unless the caller asks for tiles


class Tile(NamedTuple):
    """A window with its halo (``y0:y1, x0:x1``) and the part of it that is kept (``top:bottom, left:right``)."""

    y0: int
    y1: int
    x0: int
    x1: int
    top: int
    bottom: int
    left: int
    right: int


def tiles(height: int, width: int, core: int, halo: int) -> Iterator[Tile]:
    """Cover an image by cores of ``core`` pixels, each seen with ``halo`` pixels around it."""
    for top in range(0, height, core):
        for left in range(0, width, core):
            bottom, right = min(top + core, height), min(left + core, width)
            yield Tile(
                max(0, top - halo), min(height, bottom + halo), max(0, left - halo), min(width, right + halo),
                top, bottom, left, right,
            )  # fmt: skip


class _FixedNorm(nn.Module):
    """An InstanceNorm that remembers the statistics of one image and applies them to the next ones.

    With its own statistics each tile would get its own exposure, and the seams would show.
    """

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.mean: Tensor | None = None
        self.scale: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.mean is None or self.scale is None:
            variance, self.mean = torch.var_mean(x.float(), (2, 3), correction=0, keepdim=True)
            self.scale = (variance + self.eps).rsqrt()
        return ((x.float() - self.mean) * self.scale).to(x.dtype)


@contextmanager
def _fixed_norms(network: Generator) -> Iterator[None]:
    """Swap every InstanceNorm for a :class:`_FixedNorm` while the block runs."""
    swapped: list[tuple[nn.Module, str, nn.InstanceNorm2d]] = []
    for parent in network.modules():
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.InstanceNorm2d):
                swapped.append((parent, name, child))
    try:
        for parent, name, child in swapped:
            setattr(parent, name, _FixedNorm(child.eps))
        yield
    finally:
        for parent, name, child in swapped:
            setattr(parent, name, child)


def run_tiled(network: Generator, image: Tensor, core: int) -> Tensor:
    """Translate tile by tile, without seams, in the memory of one tile.

    Every tile is seen with a halo as wide as the network looks, and all tiles share one set of
    normalisation statistics, taken from the whole image scaled down to the size of a tile. So tiles agree
    to the last bit of arithmetic where they meet; against the untiled result the exposure may differ
    slightly, because statistics of a smaller image are not quite those of the large one.

    Args:
        image: (1, 3, H, W) in [-1, 1], H and W multiples of ``network.multiple``.
        core: side of a tile without its halo, pixels, such a multiple, too.

    Returns:
        (1, 3, H, W) in [-1, 1], on the device and in the type of ``image``.
    """
    multiple = network.multiple
    halo = -(-network.radius // multiple) * multiple
    out = torch.empty_like(image)
    height, width = image.shape[2:]
    factor = min(1.0, (core + 2 * halo) / (height * width) ** 0.5)
    small = [max(least_side(multiple), round(side * factor / multiple) * multiple) for side in (height, width)]
    with _fixed_norms(network):
        network(F.interpolate(image.float(), small, mode="bilinear", antialias=True).to(image.dtype))
        for tile in tiles(height, width, core, halo):
            result = network(image[:, :, tile.y0 : tile.y1, tile.x0 : tile.x1])
            out[:, :, tile.top : tile.bottom, tile.left : tile.right] = result[
                :, :, tile.top - tile.y0 : tile.bottom - tile.y0, tile.left - tile.x0 : tile.right - tile.x0
            ]
    return out


def check_direction(weights: Path, direction: Direction, relit: float | None) -> None:
    """Refuse to ask a translator that refines relit days for a day.

    Raises:
        ConfigError: it is asked.
    """
    if relit is not None and direction != "day2night":
        raise ConfigError(f"{weights} was trained from relit days (day=...): it has no way to a real day")


class CycleGANTranslator:
    """Translates images with one generator.

    Args:
        network: the generator; it is changed, and is the translator's from now on.
        direction: which way it translates; kept for the manifest.
        device: where it runs; None takes a GPU if there is one.
        precision: ``bf16`` (about twice as fast, 43 dB from fp32), ``fp32``, or ``auto``: bf16 where the
            device computes it fast.
        tile: side of the tiles in pixels; 0 for whole images always; None for whole images while they
            fit into memory.
        name, sha: what the manifest says of the weights.
        night_boxes: ``real``, ``pseudo`` or ``none``: which boxes of night images they were trained with.
        relit: the generator takes days that relight has made night with this strength; None: as they are.

    One instance may be called from several threads, one call at a time.
    """

    def __init__(
        self,
        network: Generator,
        direction: Direction = "day2night",
        device: torch.device | str | None = None,
        precision: Literal["auto", "bf16", "fp32"] = "auto",
        tile: int | None = None,
        name: str = "cyclegan",
        sha: str | None = None,
        night_boxes: str = "none",
        relit: float | None = None,
    ) -> None:
        if precision not in ("auto", "bf16", "fp32"):
            raise ConfigError(f"expected precision auto, bf16 or fp32, got '{precision}'")
        device = device or default_device()
        check_device(device)
        self.device = torch.device(device)
        if precision == "auto":
            precision = "bf16" if resolve_precision("auto", self.device.type == "cpu") == "bf16" else "fp32"
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        network = network.eval().requires_grad_(False).to(self.device, self.dtype)
        if self.device.type == "cpu":  # GPUs are not measured
            network = use_blocks(network)
        # A fifth faster than contiguous memory on a CPU in bf16 (measured; GPUs are not yet).
        self.network = network.to(memory_format=torch.channels_last)
        self.direction, self.tile, self.name, self.sha = direction, tile, name, sha
        self.night_boxes, self.relit = night_boxes, relit

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        direction: Direction = "day2night",
        device: torch.device | str | None = None,
        precision: Literal["auto", "bf16", "fp32"] = "auto",
        tile: int | None = None,
    ) -> CycleGANTranslator:
        """From a run folder, nightaug's own weights, or a published CycleGAN generator (``.pth``).

        Raises:
            CheckpointError: nothing there, damaged, or other weights.
            ConfigError: asked for a day of weights that were trained from relit days.
        """
        weights = find_weights(Path(path))
        network = read_generator(weights, direction)
        known, relit = read_night_boxes(weights), read_relit_strength(weights)
        check_direction(weights, direction, relit)
        return cls(network, direction, device, precision, tile, str(path), file_sha256(weights), known, relit)

    def __call__(self, image: ImageArray, boxes: Sequence[Box] | None = None, seed: int = 0) -> ImageArray:
        """uint8 (H, W, 3) RGB to the same; ``boxes`` and ``seed`` are taken for the common interface, unused."""
        check_rgb(image)
        height, width = image.shape[:2]
        with torch.inference_mode():
            x = network_input(image, self.network.multiple, self.device)
            out = self._run(x.to(self.dtype, memory_format=torch.channels_last))
            return to_image(out[0, :, :height, :width])

    def _run(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        forward: Callable[[Tensor], Tensor] = self.network
        if self.tile:
            multiple = self.network.multiple
            return run_tiled(self.network, x, max(multiple, self.tile // multiple * multiple))
        if self.tile is None:
            need = memory_needed(height, width, self.network.width, x.element_size())
            free = memory_free(self.device)
            if need > 0.8 * free:
                core = int((0.4 * free / need * height * width) ** 0.5) // 64 * 64
                return run_tiled(self.network, x, max(256, core))
        return forward(x)


def least_side(multiple: int) -> int:
    """Shortest side of a generator's input, pixels: its coarsest map must be wider than its reflection padding."""
    return max(MIN_SIDE, 2 * multiple)


def network_input(image: ImageArray, multiple: int, device: torch.device | str = "cpu") -> Tensor:
    """An image as a generator takes it: uint8 (H, W, 3) RGB to float32 (1, 3, H', W') in [-1, 1] on the device.

    H' and W' are multiples of ``multiple``; the image lies at the top left, the rest mirrors it.
    """
    height, width = image.shape[:2]
    # Bytes go to the device, a quarter of the traffic of floats, and become numbers there.
    x = torch.from_numpy(np.array(image, order="C")).to(device).permute(2, 0, 1)[None].float().div_(127.5).sub_(1.0)
    return _pad(x, *(max(side + -side % multiple, least_side(multiple)) - side for side in (height, width)))


def _pad(x: Tensor, bottom: int, right: int) -> Tensor:
    """Grow (1, 3, H, W) at the bottom and right, by reflection as far as the image reaches."""
    if not bottom and not right:
        return x
    mode = "reflect" if bottom < x.shape[2] and right < x.shape[3] else "replicate"
    return F.pad(x, (0, right, 0, bottom), mode=mode)
