"""A tiny street dataset and tiny detector settings that tests of detectors share."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import picture

from nightaug.data.domains import prepare
from nightaug.detect.train import DetectorTrainer
from nightaug.images import write_image

#: An FCOS small enough to train in a test.
TINY: dict[str, Any] = {
    "detector": "fcos-resnet18", "width": 128, "height": 64,
    "fcos": {"channels": 32, "convs": 1, "norm": "batch", "width": 0.25},
    "batch": 2, "steps": 4, "log_every": 2, "save_every": 2, "evaluate_every": 0, "warmup": 2, "optimizer": "adamw",
    "learning_rate": 1e-3, "ema": 0.9, "mixed_precision": "fp32", "tensorboard": False,
}  # fmt: skip


def street(root: Path, days: int = 6, nights: int = 6, width: int = 128, height: int = 64) -> Path:
    """A prepared dataset of pictures with a bright block (a car) and a small one (a traffic light) in each."""
    frames: dict[str, list[dict[str, Any]]] = {"train": [], "val": []}
    rng = np.random.default_rng(5)
    for split, (a, b) in {"train": (days, nights), "val": (3, 3)}.items():
        for time, count, level in (("daytime", a, 0.6), ("night", b, 0.1)):
            for number in range(count):
                name = f"{split}{time}{number:02d}-0.png"
                image = picture(number, width, height, level)
                x, y = int(rng.integers(4, width - 44)), int(rng.integers(20, height - 26))
                image[y : y + 20, x : x + 36] = (200, 30, 30)
                image[4:14, x : x + 5] = (30, 220, 60)
                write_image(root / "raw" / "images" / "100k" / split / name, image)
                labels = [
                    {"id": "1", "category": "car", "box2d": {"x1": x, "y1": y, "x2": x + 36, "y2": y + 20}},
                    {"id": "2", "category": "traffic light", "box2d": {"x1": x, "y1": 4, "x2": x + 5, "y2": 14}},
                ]
                attributes = {"timeofday": time, "weather": "clear", "scene": "highway"}
                frames[split].append({"name": name, "attributes": attributes, "labels": labels})
    for split, rows in frames.items():
        path = root / "raw" / "labels" / "det_20" / f"det_{split}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows))
    prepare(root / "raw", out=root / "data", check_brightness=False)
    return root / "data"


@contextmanager
def interrupted_in(step: int) -> Iterator[None]:
    """Ctrl-C in that step (from 0) of every detector trained meanwhile."""
    real = DetectorTrainer.step

    def stop(self: DetectorTrainer, number: int, batches: Any) -> Any:
        if number == step:
            signal.raise_signal(signal.SIGINT)
        return real(self, number, batches)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DetectorTrainer, "step", stop)
        yield
