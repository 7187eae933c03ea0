"""A tiny street dataset and tiny detector settings that tests of detectors share."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import picture

from nightaug.config import build
from nightaug.data.domains import prepare
from nightaug.detect.checkpoint import load_detector
from nightaug.detect.detectors import Detector, build_detector
from nightaug.detect.recipe import run_recipe
from nightaug.detect.settings import DetectorSettings
from nightaug.detect.train import DetectorTrainer
from nightaug.images import write_image

#: An FCOS small enough to train in a test.
TINY: dict[str, Any] = {
    "detector": "fcos-resnet18", "width": 128, "height": 64,
    "fcos": {"channels": 32, "convs": 1, "norm": "batch", "width": 0.25},
    "batch": 2, "steps": 4, "log_every": 2, "save_every": 2, "evaluate_every": 0, "warmup": 2, "optimizer": "adamw",
    "learning_rate": 1e-3, "ema": 0.9, "mixed_precision": "fp32", "tensorboard": False,
}  # fmt: skip

#: A Faster R-CNN small enough to train in a test.
TINY_RCNN: dict[str, Any] = TINY | {
    "detector": "faster-rcnn-resnet18",
    "rcnn": {
        "channels": 32, "width": 0.25, "norm": "batch", "box_features": 32, "samples": 32,
        "rpn": {"anchors": [8, 16, 32, 64, 128], "samples": 64, "kept_training": 50, "kept": 50,
                "candidates_training": 100, "candidates": 100},
    },
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


def two_against_one(data: Path, folder: Path, settings: dict[str, Any]) -> tuple[float, float]:
    """Train a detector by the command under torchrun, two processes of batch 2, and by one of batch 4.

    Returns:
        How far the weights of the two are apart (float noise is expected), and how far training has moved them.
    """
    # SGD: AdamW's first steps are as long for a gradient that is float noise as for any other.
    config = settings | {"steps": 3, "ema": 0.5, "optimizer": "sgd", "learning_rate": 0.01}
    config["data"] = ["dataset:train:A", "dataset:train:B"]
    (folder / "tiny.yaml").write_text(json.dumps(config))
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port)]
    command += ["-m", "nightaug", "train-detector", str(data), "--out", str(folder / "two"), "--cpu"]
    command += ["--config", str(folder / "tiny.yaml")]
    # In a session of its own: gloo's workers sometimes hang after finishing, and must not hold the test up.
    with open(folder / "said", "w") as said:
        run = subprocess.Popen(command, stdout=said, stderr=subprocess.DEVNULL, env=env, start_new_session=True)
    try:
        run.wait(timeout=100)
    except subprocess.TimeoutExpired:
        os.killpg(run.pid, signal.SIGKILL)
    assert (folder / "said").read_text().count("finished at step 3") == 1
    run_recipe(data, folder / "one", [config, {"batch": 4}], cpu=True)
    one, two = (load_detector(folder / name) for name in ("one", "two"))
    start = build_detector(build(DetectorSettings, config), one.classes)
    return _apart(one, two), _apart(one, start)


def _apart(one: Detector, other: Detector) -> float:
    theirs = other.state_dict()
    return max(float((value.float() - theirs[key].float()).abs().max()) for key, value in one.state_dict().items())
