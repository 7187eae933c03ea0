"""Made truth and detections for the tests of evaluation, and pycocotools' opinion on them."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np

from nightaug.detect.truth import Truth

SIZE = 400
TIMES = (None, "night", "daytime")


def _box(rng: np.random.Generator, grid: int) -> list[float]:
    x, y = rng.uniform(0, SIZE - 30, 2)
    width, height = rng.choice([8, 25, 60, 150], 2) * rng.uniform(0.7, 1.3, 2)
    return _snap([x, y, min(width, SIZE - x), min(height, SIZE - y)], grid)


def _snap(box: list[float], grid: int) -> list[float]:
    """On a grid, so that overlaps of exactly a threshold and of equal size occur."""
    if not grid:
        return [float(value) for value in box]
    x, y, width, height = (round(value / grid) * grid for value in box)
    return [float(x), float(y), float(max(width, grid)), float(max(height, grid))]


def made(
    seed: int,
    images: int = 30,
    classes: int = 4,
    boxes: int = 10,
    detections: int = 30,
    grid: int = 0,
    decimals: int = 2,
) -> tuple[Truth, list[dict[str, Any]]]:
    """Images without boxes or detections, crowds, tied scores, and a last class without boxes."""
    rng = np.random.default_rng(seed)
    records = []
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for number in range(1, images + 1):
        time = TIMES[int(rng.integers(len(TIMES)))]
        record = {"id": number, "file_name": f"{number:04d}.jpg", "width": SIZE, "height": SIZE, "timeofday": time}
        records.append({**record, "weather": None, "scene": "city street", "video": None})
        here = []
        for _ in range(int(rng.integers(boxes + 1)) if rng.random() < 0.85 else 0):
            box, label = _box(rng, grid), int(rng.integers(1, classes))
            here.append((box, label))
            row = {"id": len(annotations) + 1, "image_id": number, "category_id": label, "bbox": box}
            annotations.append({**row, "area": box[2] * box[3], "iscrowd": int(rng.random() < 0.15)})
        for _ in range(int(rng.integers(detections + 1)) if rng.random() < 0.85 else 0):
            box, label = _box(rng, grid), int(rng.integers(1, classes + 1))
            if here and rng.random() < 0.7:
                near, other = here[int(rng.integers(len(here)))]
                moved = np.array(near) + rng.normal(0, 0.08, 4) * np.array([near[2], near[3]] * 2)
                box = _snap([moved[0], moved[1], max(moved[2], 2.0), max(moved[3], 2.0)], grid)
                label = other if rng.random() < 0.9 else label
            score = round(float(rng.random()), decimals)
            results.append({"image_id": number, "category_id": label, "bbox": box, "score": score})
    return Truth(tuple(f"class {i}" for i in range(classes)), records, annotations), results


def pycocotools_evaluation(truth: Truth, results: list[dict[str, Any]], image_ids: list[int] | None = None) -> Any:
    """pycocotools' COCOeval after its three steps; ``stats`` are the twelve numbers."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    documents = []
    detections = [
        {**row, "id": number, "area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0}
        for number, row in enumerate(results, 1)
    ]
    categories = [{"id": number, "name": name} for number, name in enumerate(truth.classes, 1)]
    with contextlib.redirect_stdout(io.StringIO()):
        for rows in ([dict(row) for row in truth.annotations], detections):
            document = COCO()
            document.dataset = {"images": truth.images, "annotations": rows, "categories": categories}
            document.createIndex()
            documents.append(document)
        run = COCOeval(*documents, "bbox")
        if image_ids is not None:
            run.params.imgIds = image_ids
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run
