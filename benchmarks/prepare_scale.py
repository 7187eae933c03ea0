"""Whether preparing a dataset costs the same an image however many there are: time, processor time and peak memory.

    python benchmarks/prepare_scale.py [--counts 1000,10000,100000] [--boxes 18] [--scratch DIR] [--check-brightness]

Writes folders in BDD100K's layout, each frame a link to one of a few small scenes, with generated boxes, and prepares
each in a fresh process. The goal: neither seconds an image nor memory grow from 1,000 to 100,000 files.
Start-up is measured on ten frames and shown apart.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import header

from nightaug.data.classes import DAY, NIGHT
from nightaug.data.scenes import render
from nightaug.images import write_image

#: Frames that share one file: a file system has no more than 65,000 names for one.
SHARED = 2000
CLASSES = ("car", "traffic light", "traffic sign", "pedestrian", "truck")


def write_dataset(root: Path, count: int, boxes: int) -> None:
    """``count`` frames, half of them at night, ``boxes`` labels each."""
    chance = random.Random(0)
    folder = root / "images" / "100k" / "train"
    folder.mkdir(parents=True)
    scenes = root / "scenes"
    scenes.mkdir()
    frames = []
    for number in range(count):
        night = number % 2 == 1
        scene = scenes / f"{number // SHARED}-{night:d}.jpg"
        if not scene.exists():
            write_image(scene, render(4 * (number // SHARED), 256, 144, NIGHT if night else DAY)[0])
        name = f"{number // 3:08x}-{number:08x}.jpg"
        os.link(scene, folder / name)
        frames.append(
            {"name": name, "attributes": _attributes(night), "labels": [_label(chance) for _ in range(boxes)]}
        )
    (root / "labels").mkdir()
    (root / "labels" / "det_train.json").write_text(json.dumps(frames))


def _attributes(night: bool) -> dict[str, str]:
    return {"weather": "clear", "scene": "city street", "timeofday": NIGHT if night else DAY}


def _label(chance: random.Random) -> dict[str, Any]:
    x, y = chance.uniform(0, 200), chance.uniform(0, 110)
    box = {"x1": x, "y1": y, "x2": x + chance.uniform(4, 50), "y2": y + chance.uniform(4, 30)}
    return {"category": chance.choice(CLASSES), "attributes": {}, "box2d": box}


def measure(root: Path, out: Path, options: list[str]) -> tuple[float, float, float]:
    """Seconds, processor seconds, and peak MB of one preparation."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    # VmHWM, as a child's ru_maxrss begins with what its parent had.
    code = (
        "import sys\n"
        "from nightaug.cli import main\n"
        "try:\n    main()\n"
        "finally:\n    print('PEAK', open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"
    )
    command = [sys.executable, "-c", code, "prepare", str(root), "--out", str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    peak = float(done.stdout.rsplit("PEAK", 1)[1]) / 1024
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", default="1000,10000,100000", help="frames of each dataset")
    parser.add_argument("--boxes", type=int, default=18, help="labels a frame")
    parser.add_argument("--scratch", type=Path, help="where to work; a temporary folder otherwise")
    parser.add_argument("--check-brightness", action="store_true", help="look at every image, too")
    arguments = parser.parse_args()
    header()
    options = ["--check-brightness" if arguments.check_brightness else "--no-check-brightness"]
    start: tuple[float, float, float] | None = None
    print("| frames | seconds | processor | start-up taken off: ms an image | processor ms an image | peak MB |")
    print("|---|---|---|---|---|---|")
    for count in (10, *(int(text) for text in arguments.counts.split(","))):
        with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
            root = Path(folder) / "source"
            root.mkdir()
            write_dataset(root, count, arguments.boxes)
            found = measure(root, Path(folder) / "out", options)
        if start is None:
            start = found
            print(f"| {count} | {found[0]:.2f} | {found[1]:.2f} | | | {found[2]:.0f} |", flush=True)
            continue
        each = [1000 * (value - first) / count for value, first in zip(found[:2], start[:2], strict=True)]
        shown = f"{found[0]:.2f} | {found[1]:.2f} | {each[0]:.3f} | {each[1]:.3f} | {found[2]:.0f}"
        print(f"| {count:,} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
