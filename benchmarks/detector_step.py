"""A detector's training step in bf16 against fp32, and the share of it that waits for data.

python benchmarks/detector_step.py [--detector fcos-resnet18 --width 640 --height 384 --batch 8 --steps 8]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from common import header

from nightaug.config import build, parse_overrides
from nightaug.data.domains import prepare
from nightaug.data.formats import open_dataset
from nightaug.data.scenes import write_world
from nightaug.detect.settings import DetectorSettings
from nightaug.detect.sources import SourceSpec, known_classes, load_source
from nightaug.detect.train import DetectorTrainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", default="fcos-resnet18")
    parser.add_argument("--set", action="append", default=[], help="further settings, KEY=VALUE")
    for name, value in (("width", 640), ("height", 384), ("batch", 8), ("steps", 8)):
        parser.add_argument(f"--{name}", type=int, default=value)
    arguments = parser.parse_args()
    header()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        # Frames as large as BDD100K's: decoding and shrinking them is what loading costs.
        write_world(root / "world", {"train": {"daytime": 24, "night": 24}}, width=1280, height=720)
        prepare(root / "world", out=root / "data")
        dataset = open_dataset(root / "data")
        sources = [load_source(SourceSpec("dataset", "train", domain), dataset) for domain in "AB"]
        classes = known_classes([frame for source in sources for frame in source.frames])
        median = {}
        for precision in ("fp32", "bf16"):
            settings = build(
                DetectorSettings,
                {
                    "detector": arguments.detector, "width": arguments.width, "height": arguments.height,
                    "batch": arguments.batch, "steps": arguments.steps + 1, "mixed_precision": precision,
                },
                parse_overrides(arguments.set),
            )  # fmt: skip
            trainer = DetectorTrainer(sources, [], classes, root / precision, settings)
            stream = trainer.batches(0)
            whole, waiting = [], []
            for number in range(settings.steps):
                began = time.perf_counter()
                group = next(stream)
                fetched = time.perf_counter()
                parts = trainer.step(number, group)
                sum(float(value) for value in parts.values())  # waits for a GPU, too
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                whole.append(time.perf_counter() - began)
                waiting.append(fetched - began)
            median[precision] = statistics.median(whole[1:])
            share = statistics.median(w / s for w, s in zip(waiting[1:], whole[1:], strict=True))
            print(
                f"{precision:>5}: {median[precision]:.3f} s a step of {arguments.batch} images "
                f"({arguments.batch / median[precision]:.1f} images/s), waiting for data {100 * share:.1f}% "
                f"(n={len(whole) - 1})"
            )
        print(
            f"{arguments.detector} at {arguments.width}x{arguments.height}: ratio {median['fp32'] / median['bf16']:.2f}"
        )


if __name__ == "__main__":
    main()
