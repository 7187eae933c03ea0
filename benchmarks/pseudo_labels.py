"""Are a detector's pseudo labels right? Precision by score and class on labelled images, such as dev's night.

python benchmarks/pseudo_labels.py RUN DATASET [--split val --domain B --images 60]

A detection is right where it overlaps an object of its class by IoU 0.5. What adaptation takes for true stands over its
thresholds: a class that is never right at any score cannot be learnt from its own detections.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from common import header
from torchvision.ops import box_iou

from nightaug.data.formats import open_dataset
from nightaug.data.text import table
from nightaug.detect.checkpoint import load_detector
from nightaug.detect.dataset import frame_arrays
from nightaug.detect.inference import detect_images
from nightaug.detect.sources import labelled_frames, spread

SCORES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


def judge(arguments: argparse.Namespace) -> tuple[tuple[str, ...], np.ndarray, np.ndarray, int]:
    """Classes; a row (score, class number, right) for each detection; objects of each class; images."""
    detector = load_detector(arguments.run, arguments.device, "last")
    frames = labelled_frames(open_dataset(arguments.dataset), arguments.split, arguments.domain)
    frames = spread(frames, arguments.images)
    numbers = {name: number for number, name in enumerate(detector.classes)}
    rows, objects = [], np.zeros(len(numbers), int)
    paths = [frame.path for frame in frames if frame.path is not None]
    for frame, found in zip(frames, detect_images(detector, paths, device=arguments.device), strict=True):
        boxes, labels, _ = frame_arrays(frame, numbers)
        objects += np.bincount(labels, minlength=len(numbers))
        overlap = box_iou(torch.as_tensor(found.boxes, dtype=torch.float64), torch.from_numpy(boxes)).numpy()
        right = ((overlap > 0.5) & (np.asarray(found.labels)[:, None] == labels[None])).any(axis=1)
        rows += list(zip(np.asarray(found.scores), np.asarray(found.labels), right, strict=True))
    return detector.classes, np.array(rows, float).reshape(-1, 3), objects, len(frames)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--domain", default="B")
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    header()
    classes, rows, objects, images = judge(arguments)
    print(f"{images} images, {objects.sum() / images:.1f} objects an image; detections an image / precision, by score")
    lines = []
    for number, name in [(-1, "all"), *enumerate(classes)]:
        cells = [name, f"{(objects.sum() if number < 0 else objects[number]) / images:.1f}"]
        for least in SCORES:
            kept = rows[(rows[:, 0] >= least) & ((rows[:, 1] == number) | (number < 0))]
            cells.append(f"{len(kept) / images:.1f} / {kept[:, 2].mean():.2f}" if len(kept) else "-")
        lines.append(cells)
    print("\n".join(table(["class", "objects", *(f">= {least}" for least in SCORES)], lines)))


if __name__ == "__main__":
    main()
