"""Making an embedding store (proposals, then CLIP on each) against one image and one crop at a time.

python benchmarks/openvocab_embed.py [--run RUN --clip SPEC --device cuda --images 24 --most 300]

Baseline: the habit of public code, the detector on one image at a time, each of its boxes cut and resized with PIL on
the CPU and sent through CLIP by itself, twice (the box and its surroundings). Without --run and --clip a small detector
and a tiny model with random weights are timed: their speed is not that of a ResNet-50 and ViT-B-32.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

from common import header, write_scenes
from region_embeddings import one_at_a_time

from nightaug import __version__
from nightaug.clip.encoder import load_clip
from nightaug.clip.region_cache import Regions
from nightaug.clip.tiny import TinySettings, build_tiny, write_tiny
from nightaug.config import build, load_preset
from nightaug.detect.checkpoint import load_detector, write_detector
from nightaug.detect.detectors import build_detector
from nightaug.detect.openvocab.embed import run_embed
from nightaug.detect.openvocab.proposals import ProposalDetector, detected_boxes
from nightaug.detect.openvocab.store import ProposalStore
from nightaug.detect.settings import DetectorSettings


def _dataset(root: Path, count: int, width: int, height: int) -> list[Path]:
    """Scenes with a label file that knows their names."""
    paths = write_scenes(root / "train", count, width, height)
    images = [{"id": n, "file_name": p.name, "width": width, "height": height} for n, p in enumerate(paths, 1)]
    document = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "car"}]}
    (root / "annotations").mkdir()
    (root / "annotations" / "train.json").write_text(json.dumps(document))
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="detector of nightaug that proposes")
    parser.add_argument("--clip", help="see nightaug.clip.encoder.load_clip")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="auto")
    for name, value in (("images", 24), ("most", 300), ("width", 1280), ("height", 720), ("batch", 8), ("crops", 256)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--overlap", type=float, default=0.7)
    parser.add_argument("--workers", type=int, default=0)
    arguments = parser.parse_args()
    header()
    with tempfile.TemporaryDirectory() as folder:
        root, spec, run = Path(folder), arguments.clip, arguments.run
        if spec is None:
            tiny = TinySettings()
            write_tiny(root / "tiny", build_tiny(tiny), tiny)
            spec = str(root / "tiny")
        if run is None:
            layers = [load_preset("openvocab-sample-world")["openvocab"], {"rcnn": {"class_agnostic": True}}]
            settings = build(DetectorSettings, *layers)
            run = str(root / "detector.safetensors")
            write_detector(Path(run), build_detector(settings, ("object",)), settings, 0, __version__)
        paths = _dataset(root / "data", arguments.images, arguments.width, arguments.height)
        clip = load_clip(spec, arguments.device, arguments.precision)
        detector = ProposalDetector(load_detector(run, arguments.device), 0.0, arguments.overlap, arguments.most)
        options = {"device": arguments.device, "precision": arguments.precision}

        def plain(path: Path) -> int:
            (found,) = detected_boxes(detector, [path], 4.0, batch=1, **options)
            return len(one_at_a_time(clip, Regions(path, found.boxes))) if len(found.boxes) else 0

        plain(paths[0])  # warm
        few = paths[: max(2, len(paths) // 12)]
        began = time.perf_counter()
        boxes = sum(map(plain, few))
        slow = (time.perf_counter() - began) / len(few)
        print(f"{run if arguments.run else 'a small detector'}, {clip.name} ({clip.precision}, {clip.size[0]} px)")
        print(f"one crop at a time: {slow:.3f} s an image (n={len(few)}, {boxes / len(few):.0f} boxes an image)")

        common = {"proposals": run, "clip": spec, "most": arguments.most, "overlap": arguments.overlap, **options}
        common |= {"batch": arguments.batch, "crops": arguments.crops, "workers": arguments.workers}
        began = time.perf_counter()
        store = run_embed(root / "data", root / "store", **common)
        whole = (time.perf_counter() - began) / len(paths)
        assert store is not None
        measured, total = store.facts["measured"], store.facts["boxes"]
        seconds = measured["proposal_seconds_an_image"] + measured["embedding_seconds_a_box"] * total / len(paths)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(
            f"the store: {seconds:.3f} s an image (n={len(paths)}, {total / len(paths):.0f} boxes an image; "
            f"{whole:.3f} with loading and the estimate), {store.facts['bytes'] / max(total, 1):.0f} bytes a box on "
            f"disk, peak {peak:.2f} GB in memory"
        )
        began = time.perf_counter()
        scanned = sum(len(rows) for _, _, _, rows in ProposalStore(root / "store").scan())
        print(f"scanning {scanned:,} embeddings: {(time.perf_counter() - began) / len(paths) * 1e3:.2f} ms an image")
        print(f"ratio: {slow / seconds:.1f}")


if __name__ == "__main__":
    main()
