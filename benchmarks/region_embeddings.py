"""Embedding labelled boxes for the cache against one crop at a time, and a lookup against embedding at every step.

python benchmarks/region_embeddings.py [--clip SPEC --device cuda --images 24 --boxes 20 --width 1280 --height 720]

Baseline: the habit of public code, each box cut and resized with PIL on the CPU and sent through CLIP by itself, twice
(the box and its surroundings). Without --clip a tiny model with random weights is timed: its speed is not ViT-B-32's.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import header, write_scenes
from PIL import Image
from torch.nn import functional

from nightaug.clip.encoder import Clip, load_clip
from nightaug.clip.region_cache import RegionCache, Regions
from nightaug.clip.tiny import TinySettings, build_tiny, write_tiny


def one_at_a_time(clip: Clip, regions: Regions) -> torch.Tensor:
    image = Image.open(regions.path).convert("RGB")
    rows = []
    for x1, y1, x2, y2 in regions.boxes.tolist():
        both = torch.zeros(1, clip.width, device=clip.device)
        for factor in (1.0, 1.5):
            cx, cy, w, h = (x1 + x2) / 2, (y1 + y2) / 2, (x2 - x1) * factor / 2, (y2 - y1) * factor / 2
            box = (max(cx - w, 0), max(cy - h, 0), min(cx + w, image.width), min(cy + h, image.height))
            crop = image.crop(tuple(round(v) for v in box)).resize(clip.size[::-1], Image.Resampling.BICUBIC)
            both += clip.embed_images(torch.from_numpy(np.array(crop)).permute(2, 0, 1)[None], normalize=False)
        rows.append(functional.normalize(both, dim=1)[0].cpu())
    return torch.stack(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", help="see nightaug.clip.encoder.load_clip")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="auto")
    for name, value in (("images", 24), ("boxes", 20), ("width", 1280), ("height", 720), ("batch", 256)):
        parser.add_argument(f"--{name}", type=int, default=value)
    arguments = parser.parse_args()
    header()
    with tempfile.TemporaryDirectory() as folder:
        root, spec = Path(folder), arguments.clip
        if spec is None:
            settings = TinySettings()
            write_tiny(root / "tiny", build_tiny(settings), settings)
            spec = str(root / "tiny")
        clip = load_clip(spec, arguments.device, arguments.precision)
        paths = write_scenes(root / "images", arguments.images, arguments.width, arguments.height)
        rng = np.random.default_rng(0)
        regions = []
        for path in paths:
            sides = np.exp(rng.normal(np.log(40), 0.9, (arguments.boxes, 2))).clip(6, 600)  # as BDD100K's at 1280x720
            corner = rng.uniform(0, 1, (arguments.boxes, 2)) * (arguments.width - 40, arguments.height - 40)
            regions.append(Regions(path, np.concatenate([corner, corner + sides], axis=1)))
        one_at_a_time(clip, regions[0])  # warm
        few = regions[: max(2, len(regions) // 6)]
        began = time.perf_counter()
        plain = [one_at_a_time(clip, each) for each in few]
        slow = (time.perf_counter() - began) / len(few)
        warm = RegionCache.open(root / "warm", clip)
        warm.fill(few, clip, batch=arguments.batch)
        cache = RegionCache.open(root / "cache", clip)
        began = time.perf_counter()
        report = cache.fill(regions, clip, batch=arguments.batch)
        fast = (time.perf_counter() - began) / len(regions)
        seconds = []
        for each in regions * 5:
            began = time.perf_counter()
            _, mask = cache.lookup(each)
            seconds.append(time.perf_counter() - began)
            assert mask.any()
        agree = [
            (a * torch.from_numpy(cache.lookup(each)[0]).float()).sum(1)[torch.from_numpy(cache.lookup(each)[1])]
            for a, each in zip(plain, few, strict=True)
        ]
        size = sum(file.stat().st_size for file in cache.segments.glob("*.seg"))
        lookup = statistics.median(seconds)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(f"{clip.name} ({clip.precision}, {clip.size[0]} px), {arguments.boxes} boxes an image, two crops a box")
        print(f"one crop at a time: {slow:.3f} s an image (n={len(few)})")
        print(f"batched into the cache: {fast:.3f} s an image (n={len(regions)}), {report.embedded} rows, ", end="")
        print(f"{size / max(report.embedded, 1):.0f} bytes a row on disk, peak {peak:.2f} GB in memory")
        print(f"cosine to one at a time: mean {float(torch.cat(agree).mean()):.4f} (other resampling)")
        print(f"lookup: {lookup * 1e3:.2f} ms an image")
        print(f"ratios: filling {slow / fast:.1f}; reading against embedding in a batch {fast / lookup:.0f}")


if __name__ == "__main__":
    main()
