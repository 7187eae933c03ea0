"""Fixtures all tests share: images and datasets made here, never photographs."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny networks gain nothing from more
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest

from nightaug.images import write_image


def picture(seed: int = 0, width: int = 96, height: int = 64, level: float = 0.6) -> np.ndarray:
    """A smooth coloured picture with some texture, uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    base = np.stack([np.sin(x * 9 + i + seed) * 0.2 + np.cos(y * 7 - i) * 0.2 + level for i in range(3)], axis=2)
    return np.clip((base + rng.normal(0, 0.03, base.shape)) * 255, 0, 255).astype(np.uint8)


@pytest.fixture
def domains(tmp_path: Path) -> Path:
    """A prepared dataset's folders: 6 bright images in A, 5 dark ones in B, 3 of each for validation."""
    root = tmp_path / "dataset"
    for split, counts in (("train", (6, 5)), ("val", (3, 3))):
        for domain, count, level in (("A", counts[0], 0.6), ("B", counts[1], 0.15)):
            for i in range(count):
                write_image(root / split / domain / f"{split}{domain}{i}.png", picture(i, level=level))
    return root
