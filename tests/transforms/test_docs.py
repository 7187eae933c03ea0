"""Every Python block of docs/transforms.md runs, and does what the page says."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers import picture
from torchvision import tv_tensors

from nightaug.images import write_image
from nightaug.transforms import DayToNight

PAGE = Path(__file__).parents[2] / "docs" / "transforms.md"
IMAGE = picture(0, 80, 56)
XYXY = [[10.0, 20.0, 60.0, 50.0], [65.0, 5.0, 75.0, 25.0]]


def block(word: str) -> str:
    """The page's Python block that has ``word`` in it."""
    found = [code for code in re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.S) if word in code]
    assert len(found) == 1
    return found[0]


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chance is not what these tests are about."""
    real = DayToNight.__init__

    def init(self: DayToNight, *args: Any, **arguments: Any) -> None:
        real(self, *args, **(arguments | {"p": 1.0}))

    monkeypatch.setattr(DayToNight, "__init__", init)


def test_there_are_four_blocks() -> None:
    assert PAGE.read_text("utf-8").count("```python") == 4


def test_anywhere(always: None) -> None:
    names: dict[str, Any] = {"image": IMAGE, "boxes": XYXY, "labels": ["car", "traffic light"]}
    exec(block("night(image, boxes, labels)"), names)
    assert names["image"].mean() < 0.8 * IMAGE.mean()
    assert names["boxes"] == XYXY


def test_albumentations() -> None:
    names: dict[str, Any] = {"image": IMAGE, "boxes": XYXY, "numbers": [2, 6]}
    exec(block("A.Compose"), names)
    assert names["sample"]["class_labels"] == [2, 6]
    means = [names["pipeline"](image=IMAGE, bboxes=XYXY, class_labels=[2, 6])["image"].mean() for _ in range(20)]
    assert 3 < sum(mean < 0.8 * IMAGE.mean() for mean in means) < 17


def test_torchvision(always: None) -> None:
    image = tv_tensors.Image(torch.from_numpy(IMAGE).permute(2, 0, 1))
    boxes = tv_tensors.BoundingBoxes(torch.tensor(XYXY), format="XYXY", canvas_size=(56, 80))
    names: dict[str, Any] = {"image": image, "target": {"boxes": boxes, "labels": torch.tensor([3, 10])}}
    exec(block("v2.Compose"), names)
    assert names["image"].dtype == torch.float32
    assert names["image"].mean() * 255 < 0.8 * IMAGE.mean()


#: Before and after the page's block: every image becomes night, and the batches' brightness is written down.
BEFORE = """
import json
from nightaug.transforms import DayToNight
real_init = DayToNight.__init__
DayToNight.__init__ = lambda self, *args, **arguments: real_init(self, *args, **(arguments | {"p": 1.0}))
seen = {}

def watch(trainer):
    real = trainer.preprocess_batch
    def look(batch):
        done = real(batch)
        seen.setdefault(trainer.epoch, []).extend(float(image.mean()) * 255 for image in done["img"])
        return done
    trainer.preprocess_batch = look
"""
AFTER = """
print()
print(json.dumps([seen[0], seen[1], night.night.classes]))
"""


def test_ultralytics(tmp_path: Path) -> None:
    if importlib.util.find_spec("ultralytics") is None:
        pytest.skip("ultralytics is not installed")
    images = [picture(i, 64, 64) for i in range(4)]
    for split in ("train", "val"):
        for i, image in enumerate(images):
            write_image(tmp_path / "data" / split / f"{i}.png", image)
            (tmp_path / "data" / split / f"{i}.txt").write_text("0 0.4 0.6 0.4 0.4\n1 0.8 0.2 0.1 0.3\n")
    names = {0: "car", 1: "traffic light"}
    data = {"path": str(tmp_path / "data"), "train": "train", "val": "val", "names": names}
    (tmp_path / "data" / "dataset.yaml").write_text(yaml.safe_dump(data))
    code = block("NightTrainer")
    lines = {
        'YOLO("yolo11n.yaml").train': 'model = YOLO("yolo11n.yaml")\n'
        'model.add_callback("on_pretrain_routine_end", watch)\nmodel.train',
        "epochs=100, imgsz=640": "epochs=2, close_mosaic=1, imgsz=64, batch=2, workers=1, device='cpu', plots=False, "
        f"val=False, save=False, hsv_v=0, translate=0, scale=0, verbose=False, project={str(tmp_path)!r}",
    }
    for old, new in lines.items():
        assert old in code
        code = code.replace(old, new)
    (tmp_path / "train.py").write_text(BEFORE + code + AFTER)
    # In a process of its own: importing it replaces functions of PIL, torch and OpenCV, and it writes settings.
    quiet = {"YOLO_OFFLINE": "1", "YOLO_AUTOINSTALL": "0", "YOLO_CONFIG_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    environment = os.environ | quiet | {"MPLCONFIGDIR": str(tmp_path), "PYTHONPATH": str(PAGE.parents[1])}
    run = [sys.executable, "train.py"]
    done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    first, last, classes = json.loads(next(line for line in done.stdout.splitlines()[::-1] if line.startswith("[[")))
    assert classes == {str(number): name for number, name in names.items()}
    assert (len(first), len(last)) == (4, 4)
    day = min(image.mean() for image in images)
    assert max(last) < 0.8 * day, "closing the mosaic does not take it away"
    assert np.mean(first) < 0.8 * day, "every tile of a mosaic, but for its grey border, is night"
