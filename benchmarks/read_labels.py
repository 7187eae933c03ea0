"""Reading 70,000 labelled frames: nightaug's readers against ``json.load``, in one run.

Writes a label file in BDD100K's old layout (boxes, lanes and drivable areas as polygons, indented as the real files
are), then reads it in fresh processes: with ``json.load`` (plain dicts), with ``read_labels`` (a list of typed Frames)
and with ``iter_labels`` (the same Frames one by one). The claim: typed at least 8 times as fast as ``json.load``, or
4 times in under 150 MB.

    python benchmarks/read_labels.py [--frames 70000] [--repeat 3] [--compact] [--keep FILE]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

CODE = {
    "json.load": """
import json
with open(path) as file:
    data = json.load(file)
frames = len(data)
boxes = sum("box2d" in label for frame in data for label in frame["labels"])
nights = sum(frame["attributes"]["timeofday"] == "night" for frame in data)
""",
    "read_labels": """
from nightaug.data.formats import read_labels
data = read_labels(path).frames
frames = len(data)
boxes = sum(len(frame.boxes) for frame in data)
nights = sum(frame.timeofday == "night" for frame in data)
""",
    "iter_labels": """
from nightaug.data.formats import iter_labels
frames = boxes = nights = 0
for frame in iter_labels(path):
    frames += 1
    boxes += len(frame.boxes)
    nights += frame.timeofday == "night"
""",
}
#: Imports are not reading: each process warms them up before the clock starts.
RUN = """
import json, resource, sys, time
from pathlib import Path
path = Path(sys.argv[1])
{imports}
start = time.perf_counter()
{code}
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([seconds, peak, frames, boxes, nights]))
"""


def make_file(path: Path, frames: int, indent: int | None, seed: int = 0) -> None:
    """Write the label file, frame by frame."""
    rng = random.Random(seed)
    with open(path, "w", encoding="utf-8") as file:
        file.write("[")
        for number in range(frames):
            if number:
                file.write(",")
            text = json.dumps(_frame(rng), indent=indent)
            if indent is not None:
                text = "\n" + " " * indent + text.replace("\n", "\n" + " " * indent)
            file.write(text if indent is not None or not number else " " + text)
        file.write("\n]\n" if indent is not None else "]")


def _frame(rng: random.Random) -> dict[str, Any]:
    def polygon(points: int) -> list[list[float]]:
        return [[rng.uniform(0, 1280), rng.uniform(0, 720)] for _ in range(points)]

    labels: list[dict[str, Any]] = []
    kinds = ["car"] * 11 + ["traffic sign"] * 4 + ["traffic light"] * 3 + ["person", "truck", "bus", "bike", "rider"]
    for _ in range(max(1, round(rng.gauss(18.5, 8)))):
        x, y = rng.uniform(0, 1200), rng.uniform(0, 650)
        kind = rng.choice(kinds)
        light = rng.choice(["green", "red", "none"]) if kind == "traffic light" else "none"
        labels.append(
            {
                "category": kind,
                "attributes": {
                    "occluded": rng.random() < 0.5,
                    "truncated": rng.random() < 0.1,
                    "trafficLightColor": light,
                },
                "manualShape": True,
                "manualAttributes": True,
                "box2d": {"x1": x, "y1": y, "x2": x + rng.uniform(5, 80), "y2": y + rng.uniform(5, 70)},
                "id": rng.randrange(1_300_000),
            }
        )
    for _ in range(rng.randrange(4, 11)):
        attributes = {"laneDirection": "parallel", "laneStyle": "solid", "laneType": "road curb"}
        poly = [{"vertices": polygon(rng.choice([2, 2, 4])), "types": "LL", "closed": False}]
        labels.append(
            {
                "category": "lane",
                "attributes": attributes,
                "manualShape": True,
                "manualAttributes": True,
                "poly2d": poly,
                "id": rng.randrange(1_300_000),
            }
        )
    for _ in range(rng.randrange(1, 4)):
        poly = [{"vertices": polygon(rng.randrange(5, 12)), "types": "LLLLLCCC", "closed": True}]
        labels.append(
            {
                "category": "drivable area",
                "attributes": {"areaType": "direct"},
                "manualShape": True,
                "manualAttributes": True,
                "poly2d": poly,
                "id": rng.randrange(1_300_000),
            }
        )
    return {
        "name": f"{rng.randrange(1 << 32):08x}-{rng.randrange(1 << 32):08x}.jpg",
        "attributes": {
            "weather": rng.choice(["clear", "rainy", "overcast", "undefined"]),
            "scene": rng.choice(["city street", "highway", "residential"]),
            "timeofday": rng.choices(["daytime", "night", "dawn/dusk", "undefined"], [37, 28, 5, 0.2])[0],
        },
        "timestamp": 10000,
        "labels": labels,
    }


def measure(name: str, path: Path) -> list[float]:
    """Seconds, peak memory in MB, frames, boxes and night frames of one reading in a fresh process."""
    imports = "" if name == "json.load" else "import nightaug.data.formats"
    code = RUN.format(imports=imports, code=CODE[name])
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    values: list[float] = json.loads(done.stdout)
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=70_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--compact", action="store_true", help="one line, as json.dump writes it")
    parser.add_argument("--keep", type=Path, help="use this file, making it if it is not there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = args.keep or Path(folder) / "bdd100k_labels_images_train.json"
        if not path.exists():
            make_file(path, args.frames, None if args.compact else 4)
        print(f"{args.frames:,} frames, {path.stat().st_size / 1e6:,.0f} MB")
        results: dict[str, list[list[float]]] = {name: [] for name in CODE}
        # Interleaved, so that a busy minute of a shared machine hits all of them.
        for _ in range(args.repeat):
            for name in CODE:
                results[name].append(measure(name, path))
    assert len({tuple(run[2:]) for runs in results.values() for run in runs}) == 1, "the readers disagree"
    base = statistics.median(run[0] for run in results["json.load"])
    for name, runs in results.items():
        seconds = statistics.median(run[0] for run in runs)
        ratio = statistics.median(b[0] / r[0] for b, r in zip(results["json.load"], runs, strict=True))
        peak = max(run[1] for run in runs)
        print(f"{name:12s} {seconds:7.2f} s  {base / seconds:5.1f}x (paired {ratio:.1f}x)  peak {peak:6.0f} MB")
    print(f"boxes {results['json.load'][0][3]:,.0f}, night frames {results['json.load'][0][4]:,.0f}")


if __name__ == "__main__":
    main()
