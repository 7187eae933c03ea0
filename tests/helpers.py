"""Things tests make: pictures and small datasets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from nightaug.images import write_image


def picture(seed: int = 0, width: int = 96, height: int = 64, level: float = 0.6) -> np.ndarray:
    """A smooth coloured picture with some texture, uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    base = np.stack([np.sin(x * 9 + i + seed) * 0.2 + np.cos(y * 7 - i) * 0.2 + level for i in range(3)], axis=2)
    return np.clip((base + rng.normal(0, 0.03, base.shape)) * 255, 0, 255).astype(np.uint8)


def scalabel(root: Path, times: list[str | None], suffix: str = "jpg") -> Path:
    frames = []
    for i, time in enumerate(times):
        write_image(root / "images" / "100k" / "train" / f"{i:04d}-a.{suffix}", picture(i))
        box = {
            "id": "0",
            "category": "car",
            "attributes": {"occluded": True},
            "box2d": {"x1": 4, "y1": 5, "x2": 30.5, "y2": 40},
        }
        attributes = None if time is None else {"timeofday": time, "weather": "clear", "scene": "highway"}
        frames.append({"name": f"{i:04d}-a.{suffix}", "attributes": attributes, "timestamp": 1, "labels": [box]})
    labels = root / "labels" / "det_20" / "det_train.json"
    labels.parent.mkdir(parents=True)
    labels.write_text(json.dumps(frames))
    return root
