"""What the benchmarks share."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

from nightaug import __version__
from nightaug.data.scenes import render
from nightaug.images import write_image


def header() -> None:
    """Say what was measured on what."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {os.cpu_count()} cores"
    load = os.getloadavg()[0]
    print(
        f"nightaug {__version__}, torch {torch.__version__}, {platform.machine()}, {device}, "
        f"{torch.get_num_threads()} threads, load before start {load:.1f}"
    )


def write_scenes(folder: Path, count: int, width: int, height: int) -> list[Path]:
    """``count`` day scenes of the sample world as JPEG files."""
    paths = []
    for i in range(count):
        path = folder / f"{i:05d}.jpg"
        write_image(path, render(4 * i, width, height)[0])
        paths.append(path)
    return paths
