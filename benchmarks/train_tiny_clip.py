"""A tiny CLIP for a dataset, trained on captioned crops of its train split, and how well it names those of another.

python benchmarks/train_tiny_clip.py DATASET --out RUN [--held val] [--resume] [--set steps=1500]

Prints the held-out accuracy by object size against the commonest class, and writes it to RUN/accuracy.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from common import header

from nightaug.clip.accuracy import accuracy_table, crop_accuracy
from nightaug.clip.encoder import load_clip
from nightaug.clip.prompts import Prompts
from nightaug.clip.region_cache import RegionCache
from nightaug.clip.tiny import TinySettings, train_tiny
from nightaug.config import build, parse_overrides
from nightaug.data.formats import open_dataset
from nightaug.errors import NightaugError
from nightaug.images import atomic_write_text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--split", default="train", help="what is trained on")
    parser.add_argument("--held", default="val", help="what is measured")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--set", action="append", default=[], help="further settings, KEY=VALUE")
    arguments = parser.parse_args()
    header()
    try:
        return work(arguments)
    except NightaugError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def work(arguments: argparse.Namespace) -> int:
    settings = build(TinySettings, parse_overrides(arguments.set))
    dataset = open_dataset(arguments.dataset)
    frames, held = dataset.frames(arguments.split), dataset.frames(arguments.held)
    classes = tuple(sorted({box.category for frame in frames for box in frame.boxes}))
    result = train_tiny(frames, classes, arguments.out, settings, arguments.resume, arguments.device)
    print(f"step {result.step:,} of {settings.steps:,} in {result.wall_s:.0f} s, crops {result.crops}")
    if not result.finished:
        print("stopped; go on with --resume")
        return 1
    clip = load_clip(str(arguments.out), arguments.device, settings.mixed_precision)
    image = sum(p.numel() for p in clip.model.visual.parameters())
    tokens = clip.model.token_embedding.weight.numel()
    text = sum(p.numel() for p in clip.model.parameters()) - image - tokens
    print(f"parameters: image tower {image:,}, text tower {text:,}, token embedding {tokens:,}; sha {clip.sha[:12]}")
    cache = RegionCache.open(arguments.out / "regions", clip, settings.context, settings.min_side)
    cache.fill(held, clip)
    report = crop_accuracy(cache, held, Prompts(clip), classes)
    report |= {"clip": clip.name, "clip_sha": clip.sha, "train_images": len(frames), "held_images": len(held)}
    atomic_write_text(arguments.out / "accuracy.json", json.dumps(report, indent=1) + "\n")
    print(accuracy_table(report))
    for name, row in report["by_class"].items():
        print(f"{name:>14}: {100 * row['accuracy']:5.1f}% of {row['crops']:,}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
