"""A CLIP with random weights, small enough to run in milliseconds, and pictures with boxes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from helpers import picture

from nightaug.clip.encoder import Clip, load_clip
from nightaug.clip.tiny import TinySettings, build_tiny, write_tiny
from nightaug.data.frames import Box, Frame
from nightaug.images import write_image

TINY = TinySettings(size=32, width=8, embed=32, text_width=32, context_length=24, steps=4, batch=8, warmup=1)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny(folder, build_tiny(TINY), TINY)
    return folder


@pytest.fixture(scope="session")
def clip(tiny_folder: Path) -> Clip:
    return load_clip(str(tiny_folder), precision="fp32")


@pytest.fixture
def frames(tmp_path: Path) -> list[Frame]:
    """Six pictures of 96x64 with 0 to 5 boxes, written long enough ago for their time of change to be trusted."""
    rng = np.random.default_rng(3)
    made = []
    for i in range(6):
        path = tmp_path / "images" / f"{i}.png"
        write_image(path, picture(i))
        os.utime(path, (1_000_000 + i, 1_000_000 + i))
        boxes = []
        for j in range(i):
            x, y = rng.uniform(0, 60), rng.uniform(0, 40)
            category = ("car", "traffic light", "pedestrian")[j % 3]
            light = "red" if category == "traffic light" else None
            boxes.append(Box(x, y, x + rng.uniform(6, 30), y + rng.uniform(6, 20), category, light))
        made.append(Frame(path.name, boxes, 96, 64, "night" if i % 2 else "daytime", path=path))
    return made
