"""Fixtures all tests share: images and datasets made here, never photographs."""

from __future__ import annotations

import os
import random
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny networks gain nothing from more
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
import torch
from helpers import picture

from nightaug.images import write_image


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Numbers that a test draws at random are the same ones every time, alone or among others."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


@pytest.fixture
def domains(tmp_path: Path) -> Path:
    """A prepared dataset's folders: 6 bright images in A, 5 dark ones in B, 3 of each for validation."""
    root = tmp_path / "dataset"
    for split, counts in (("train", (6, 5)), ("val", (3, 3))):
        for domain, count, level in (("A", counts[0], 0.6), ("B", counts[1], 0.15)):
            for i in range(count):
                write_image(root / split / domain / f"{split}{domain}{i}.png", picture(i, level=level))
    return root
