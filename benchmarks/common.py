"""What the benchmarks share."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

from nightaug import __version__
from nightaug.data.scenes import render
from nightaug.images import write_image
from nightaug.runs import resolve_precision


def machine() -> str:
    """What is measured, on what, in one line."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {os.cpu_count()} cores"
    fast = "bf16" if resolve_precision("auto", cpu=True) == "bf16" else "no bf16"
    return (
        f"nightaug {__version__}, torch {torch.__version__}, {platform.machine()} ({fast} on the CPU), {device}, "
        f"{torch.get_num_threads()} threads"
    )


def header() -> None:
    """Say what was measured on what."""
    print(f"{machine()}, load before start {os.getloadavg()[0]:.1f}")


def write_scenes(folder: Path, count: int, width: int, height: int) -> list[Path]:
    """``count`` day scenes of the sample world as JPEG files."""
    paths = []
    for i in range(count):
        path = folder / f"{i:05d}.jpg"
        write_image(path, render(4 * i, width, height)[0])
        paths.append(path)
    return paths
